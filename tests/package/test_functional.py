"""keep_first and tail_dropout: exact support, ends of p, any shape, reproducibility, modes and threads."""

import sys
import threading
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from taildropout import dropping, keep_first, rate, tail_dropout
from taildropout.selection import dispatch as selection

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


SMALL, LARGE = (6, 9), (130, 520)  # below and above the size from which k alone is saved


SIZES = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])


@SIZES
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_output_is_0_or_the_input_and_a_prefix(shape: tuple[int, int], dtype: torch.dtype) -> None:
    input = torch.randn(shape).to(dtype)
    output = tail_dropout(input, 0.5)
    stays = output != 0
    assert oracles.is_prefix(stays | (input == 0))
    assert torch.equal(output[stays], input[stays])  # never rescaled
    assert 0 < stays.sum() < input.numel()


@SIZES
def test_the_ends_of_p_and_eval(shape: tuple[int, int]) -> None:
    input = torch.randn(shape)
    assert torch.equal(tail_dropout(input, 0), input)
    assert torch.equal(tail_dropout(input, 0.0), input)
    assert not tail_dropout(input, 1).any()
    assert torch.equal(tail_dropout(input, 1.0, training=False), input)
    assert torch.equal(tail_dropout(input, training=False), input)
    assert torch.equal(tail_dropout(torch.ones(shape).long(), 1.0, training=False), torch.ones(shape).long())


@SIZES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("inplace", [False, True])
def test_nan_and_inf_in_the_tail_leave_no_trace(shape: tuple[int, int], bad: float, inplace: bool) -> None:
    for p in (0.5, 1.0):
        leaf = torch.full(shape, bad, requires_grad=True)
        output = tail_dropout(leaf * 1, p, inplace=inplace)
        gone = output.detach() == 0
        assert gone.any()
        assert p < 1 or gone.all()
        sent = torch.where(gone, bad, 2.0)
        (grad,) = torch.autograd.grad(output, leaf, sent)
        assert torch.equal(grad, torch.where(gone, 0.0, 2.0))
        assert not torch.signbit(grad).any()


@SIZES
def test_inplace_writes_into_the_input_and_autograd_knows(shape: tuple[int, int]) -> None:
    input = torch.ones(shape)
    output = tail_dropout(input, 0.5, inplace=True)
    assert output is input or output.data_ptr() == input.data_ptr()
    assert (input == 0).any()
    leaf = torch.rand(shape, requires_grad=True)
    squared = leaf * leaf
    root = squared.sqrt()  # saves its result
    tail_dropout(root, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        root.sum().backward()
    factor = torch.rand(shape)
    product = leaf * factor  # saves the factor, which itself needs no gradient
    with torch.no_grad():
        tail_dropout(factor, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    with pytest.raises(RuntimeError, match="leaf"):
        tail_dropout(leaf, 0.5, inplace=True)


@SIZES
@pytest.mark.parametrize("inplace", [False, True])
def test_without_inplace_the_input_stays(shape: tuple[int, int], inplace: bool) -> None:
    input = torch.rand(shape) + 1
    before = input.clone()
    tail_dropout(input, 0.9, inplace=inplace)
    assert torch.equal(input, before) is not inplace


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4), (0, 70000)])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_empty_tensors(shape: tuple[int, ...], p: float) -> None:
    leaf = torch.empty(shape, requires_grad=True)
    output = tail_dropout(leaf * 1, p, batch_dim=(0,) if len(shape) > 1 else ())
    assert output.shape == shape
    output.sum().backward()
    assert keep_first(leaf, 2).shape == shape


@pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [3, 7], ids=["small", "some large"])
def test_any_number_of_dims(ndim: int, size: int) -> None:
    shape = [size] * ndim
    for dropout_dim in range(-ndim, ndim):
        others = [dim for dim in range(ndim) if dim != dropout_dim % ndim]
        for batch_dim in ((), others, others[:1]):
            output = tail_dropout(torch.ones(shape), 0.5, batch_dim=batch_dim, dropout_dim=dropout_dim)
            widths = oracles.widths(output, dropout_dim)
            shared = [others.index(dim) for dim in others if dim not in batch_dim]
            for dim in shared:  # one k along every dim that is no batch dim
                assert (widths == widths.narrow(dim, 0, 1)).all()
            assert widths.numel() < 50 or len(batch_dim) < len(others) or len(set(widths.flatten().tolist())) > 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(16, 1000), (130, 520)], ids=["small", "large"])
def test_e_is_drawn_in_float32_whatever_the_input(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The same seed gives the same widths in every dtype; a bfloat16 E would round most of them."""
    assert (shape[0] * shape[1] < selection.SAVE_ONLY_K_FROM) is (shape == (16, 1000))
    drawn = []
    for each in (torch.float64, dtype):
        torch.manual_seed(0)
        drawn.append(oracles.widths(tail_dropout(torch.ones(shape, dtype=each), 0.3)))
    assert torch.equal(*drawn)
    torch.manual_seed(0)
    e = torch.empty(shape[0]).exponential_(rate(0.3, shape[1]))
    assert torch.equal(drawn[0], e.floor().clamp(max=shape[1]).long())


@SIZES
def test_the_seed_and_the_generator_decide(shape: tuple[int, int]) -> None:
    input = torch.ones(shape)
    torch.manual_seed(1)
    first = tail_dropout(input)
    assert not torch.equal(tail_dropout(input), first)
    torch.manual_seed(1)
    assert torch.equal(tail_dropout(input), first)
    before = torch.get_rng_state()
    own = [tail_dropout(input, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(own[0], own[1])
    assert not torch.equal(own[0], own[2])
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(tail_dropout(input, generator=generator), own[0])
    assert not torch.equal(tail_dropout(input, generator=generator), own[0])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing kept from call to call yet."""
    monkeypatch.setattr(selection, "_constants", {})
    monkeypatch.setattr(dropping, "_prepared", {})


def trains(shape: tuple[int, int]) -> None:
    leaf = torch.ones(shape, requires_grad=True)
    output = tail_dropout(leaf, 0.5)
    output.sum().backward()
    assert torch.equal(leaf.grad, output.detach())
    oracles.widths(output.detach())
    assert torch.equal(keep_first(leaf, 3), oracles.keep_first(leaf[:1], 3).expand(shape))


@SIZES
@pytest.mark.usefixtures("fresh")
def test_a_first_call_under_any_mode_does_not_spoil_later_ones(shape: tuple[int, int]) -> None:
    input = torch.ones(shape)
    with torch.inference_mode():
        oracles.widths(tail_dropout(torch.ones(shape)))
    trains(shape)
    selection._constants.clear()
    with FakeTensorMode():
        assert tail_dropout(torch.ones(shape)).shape == shape
    trains(shape)
    selection._constants.clear()
    oracles.widths(torch.func.grad(lambda x: tail_dropout(x).sum())(input))
    trains(shape)
    oracles.widths(torch.func.vmap(lambda x: keep_first(x, 3))(input))
    trains(shape)


@SIZES
@pytest.mark.usefixtures("fresh")
def test_a_default_device_elsewhere_changes_nothing(shape: tuple[int, int]) -> None:
    """As after torch.set_default_device("cuda") with an input on the CPU."""
    input = torch.ones(shape)
    with torch.device("meta"):
        output = tail_dropout(input)
        fixed = keep_first(input, 3)
    oracles.widths(output)
    assert (oracles.widths(fixed) == 3).all()
    trains(shape)


@SIZES
def test_threads_do_not_share_their_noise(shape: tuple[int, int]) -> None:
    outputs: list[Tensor] = []

    def work() -> None:
        torch.set_grad_enabled(True)
        for _ in range(20):
            leaf = torch.ones(shape, requires_grad=True)
            output = tail_dropout(leaf, 0.5)
            output.sum().backward()
            assert torch.equal(leaf.grad, output.detach())
            outputs.append(oracles.widths(output.detach()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 80
    assert len({tuple(each.tolist()) for each in outputs}) > 70


def test_threads_never_draw_the_same_noise(request: pytest.FixtureRequest) -> None:
    """Any two calls agree in half of 10 000 coins; memory for E that two threads shared would make them agree in more."""
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)  # seconds; so that threads meet often
    coins: list[Tensor] = []

    def work() -> None:
        coins.extend(tail_dropout(torch.ones(10_000, 1), 0.5)[:, 0] * 2 - 1 for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tosses = torch.stack(coins)
    agreement = (tosses @ tosses.t() / 100).fill_diagonal_(0)  # of each pair, in standard errors
    assert len(coins) == 600
    assert agreement.abs().max() < 8


def test_autocast_keeps_the_input_dtype_and_the_law() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        hidden = torch.nn.Linear(8, 2000)(torch.ones(64, 8))
        output = tail_dropout(hidden, 0.5)
        assert output.dtype == hidden.dtype == torch.bfloat16
        wide = tail_dropout(torch.ones(512, 2000), 0.5)
    assert wide.dtype == torch.float32
    assert len(set(oracles.widths(wide).tolist())) > 150  # of bfloat16 there are 8 bits: few dozen widths


@pytest.mark.parametrize(("dim", "error"), [(2, IndexError), (-3, IndexError), ("x", TypeError), (True, TypeError)])
def test_errors_of_keep_first_speak_of_its_own_argument(dim: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"(?<!_)dim") as caught:
        keep_first(torch.ones(2, 3), 1, dim)
    assert "dropout_dim" not in str(caught.value)
    assert "batch_dim" not in str(caught.value)
