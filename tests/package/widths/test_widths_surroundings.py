"""scree on batches from a data loader, under autocast and torch.compile, on other devices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from package.widths.networks import (
    NETWORKS,
    Custom,
    changed_before,
    loop,
    per_element,
    regression,
    wide_linear,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from taildropout import TailDropout, scree

pytestmark = pytest.mark.usefixtures("float64")


def test_a_data_loader_a_generator_and_inference_mode() -> None:
    model, batches = wide_linear(), regression(5)
    expected = scree(model, "2", batches, per_element).loss
    data = TensorDataset(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    before = torch.get_rng_state()
    loader = DataLoader(data, batch_size=5, shuffle=True)
    torch.testing.assert_close(scree(model, "2", loader, per_element).loss, expected, rtol=1e-12, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(scree(model, "2", iter(batches), per_element).loss, expected)
    with torch.inference_mode():
        assert torch.equal(scree(model, "2", batches, per_element).loss, expected)
        made = [(x.clone(), y) for x, y in batches]
        assert torch.equal(scree(model, "2", made, per_element).loss, expected)
        written = Custom(changed_before)
        in_place = scree(written, "drop", batches, per_element)
    torch.testing.assert_close(in_place.loss, loop(written, "drop", batches, per_element, range(13)), rtol=1e-10, atol=0)
    assert in_place.method.startswith("copies along dim 0, all of the model")
    model(torch.randn(3, 5)).sum().backward()  # no inference tensor was left behind


def test_autocast_takes_no_running_sum_of_other_numbers() -> None:
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), TailDropout(), nn.Linear(12, 3)).float()
    batches = [(x.float(), y.float()) for x, y in regression(5)]
    with torch.autocast("cpu", torch.bfloat16):
        result = scree(model, "2", batches, per_element)
        expected = loop(model, "2", batches, per_element, range(13))
    assert result.method == "copies along dim 0"
    torch.testing.assert_close(result.loss, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("inner", [False, True])
def test_a_compiled_model_is_evaluated_as_it_was_written(inner: bool, compiler: Any) -> None:
    torch.set_default_dtype(torch.float32)
    net = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), TailDropout(), nn.Linear(12, 3))
    batches = [(x.float(), y.float()) for x, y in regression(5)]
    expected = scree(net, "2", batches, per_element)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    if inner:
        net.compile(backend=backend)
        compiled, name = net, "2"
    else:
        compiled, name = torch.compile(net, backend=backend), "_orig_mod.2"
    x = batches[0][0]
    with torch.no_grad():
        compiled.eval()(x)
    before = len(graphs)
    result = scree(compiled, name, batches, per_element)
    assert result.method == expected.method == "running sums along dim 0"
    assert torch.equal(result.loss, expected.loss)
    with torch.no_grad():
        compiled(x)
    assert len(graphs) == before == 1  # neither here nor afterwards was anything compiled


def test_the_device_is_where_batches_go(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    to = Tensor.to

    def watched(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str | torch.device):
            moved.append(str(args[0]))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", watched)
    scree(wide_linear(), "2", regression(5), per_element, device="cpu:0")
    assert moved.count("cpu:0") == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", ["mlp", "conv", "time first", "around the layer"])
def test_on_a_gpu(name: str) -> None:
    build, layer, batches, method = NETWORKS[name]
    model = build()
    expected = scree(model, layer, batches, per_element)
    state = torch.cuda.get_rng_state()
    result = scree(model.cuda(), layer, batches, per_element)
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert result.method.startswith(method)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-10, atol=1e-12)
