"""Several layers share compiled code; and what tracing leaves behind is fit for a compiled layer."""

import copy
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from taildropout import GatedTailMLP, TailDropout, TailMLP, rate
from taildropout import compiled as constants

MAKE: dict[str, Callable[[], nn.Module]] = {
    "nn.Dropout": lambda: nn.Dropout(0.5),
    "TailDropout": lambda: TailDropout(0.5),
    "TailMLP": lambda: TailMLP(16, 24, 16, activation=nn.GELU(), p=0.5),
    "GatedTailMLP": lambda: GatedTailMLP(16, 24, 16, activation=nn.SiLU(), p=0.5),
}


class Block(nn.Module):
    """A residual block around a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = MAKE[name]()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled code, and no layer that has prepared anything."""
    monkeypatch.setattr(constants, "_shared", {})
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", MAKE)
def test_twelve_blocks_that_are_compiled_one_by_one_share_their_code(name: str) -> None:
    """With a graph per block, the ninth would be an error: torch compiles a function eight times at most."""
    counter, x = CompileCounterWithBackend("eager"), torch.randn(8, 16)

    def graphs_after(blocks: list[nn.Module]) -> int:
        for block in blocks:
            block.compile(fullgraph=True, backend=counter)
        y = x
        for block in [*blocks, *blocks]:
            y = block(y)
        assert y.isfinite().all()
        return int(counter.frame_count)

    first = graphs_after([Block(name) for _ in range(12)])
    assert first <= 2  # another one once the input requires grad
    # So do blocks that are made later, copies of them, and blocks of another p.
    made, other = Block(name), Block(name)
    for layer in other.modules():
        if isinstance(layer, TailDropout):
            layer.p = 0.25
    assert graphs_after([made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), other]) == first


def test_each_layer_reads_its_own_p() -> None:
    layers = [TailDropout(p) for p in (0.1, 0.5, 0.9)]
    for layer in layers:
        layer.compile(backend="eager")
        layer(torch.ones(2, 64))
    layers.append(TailDropout(0.3))
    layers[1].p = 0.7
    for layer in layers:
        assert layer._constants.kept[64, torch.device("cpu")][0].item() == pytest.approx(1 / rate(layer.p, 64))
        dropped = 1 - layer(torch.ones(4000, 64)).mean().item()
        assert abs(dropped - layer.p) < 5 * 0.5 / 4000**0.5  # a share has a standard deviation of ½ at most: five errors


def test_export_leaves_a_layer_that_trains() -> None:
    layer, x = TailDropout(0.5), torch.randn(4, 8)
    torch.export.export(layer, (x,))
    assert type(torch.compile(layer, backend="eager")(x)) is Tensor
    block = TailMLP(8, 16, 8, activation=nn.GELU(), p=0.5)
    torch.export.export(block, (x,))
    block[2].p = 0.3
    program = torch.export.export(block, (x,))
    torch.export.save(program, file := io.BytesIO())
    file.seek(0)
    assert torch.export.load(file).module()(x).isfinite().all()


@pytest.mark.parametrize("name", MAKE)
def test_a_derivative_within_compiled_code_may_come_first(name: str) -> None:
    layer, x = MAKE[name](), torch.randn(4, 16)
    compiled = torch.compile(torch.func.grad(lambda x: layer(x).sum()), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    found = compiled(x)
    torch.compiler.reset()
    x.requires_grad_()
    torch.manual_seed(0)
    (wanted,) = torch.autograd.grad(torch.compile(layer, backend="eager", fullgraph=True)(x).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_a_layer_made_in_inference_mode_trains_afterwards() -> None:
    TailDropout(0.5)._constants.prepare(8, torch.device("cpu"))
    with torch.inference_mode():
        layer = TailDropout(0.5)
        layer.p = 0.25
    x = torch.randn(4, 8, requires_grad=True)
    torch.compile(layer, backend="eager")(x).sum().backward()
    assert x.grad is not None


def test_what_is_prepared_for_all_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "_MOST", 3)
    first, other, cpu = TailDropout(0.5), TailDropout(0.5), torch.device("cpu")
    for n in (2**17, 1, 2, 3, 4):
        first._constants.prepare(n, cpu)
    assert set(first._constants.kept) == {(n, cpu) for n in (2**17, 1, 2, 3, 4)}
    assert set(other._constants.kept) == {(n, cpu) for n in (1, 2, 3)}
    first.p = 0.25
    assert set(first._constants.kept) == {(n, cpu) for n in (2**17, 1, 2, 3, 4)}


def test_layers_are_forgotten_and_made_while_others_prepare() -> None:
    """In eight threads at once."""
    failed: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(1, 40):
                layers = [TailDropout(0.5) for _ in range(5)]
                layers[0]._constants.prepare(n + thread, torch.device("cpu"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_prepares_nothing_for_the_gpus_of_its_parent() -> None:
    constants._shared.update({(8, torch.device("meta")): None, (8, torch.device("cpu")): None})
    constants._forget_gpus()
    assert list(constants._shared) == [(8, torch.device("cpu"))]
