"""Other people's tracers: torch.fx, feature extraction, quantisation, `torch.jit.trace` and `torch.jit.script`."""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Tracer, symbolic_trace

from taildropout import TailDropout, TailMLP, keep_first, tail_dropout
from taildropout.baselines import InvertedDropout, LearnedDropout, NestedDropout, StochasticReLU


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 2))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "nn.Dropout": nn.Dropout,
    "TailDropout": TailDropout,
    "NestedDropout": NestedDropout,
    "InvertedDropout": InvertedDropout,
    "StochasticReLU": StochasticReLU,
    "LearnedDropout": lambda: LearnedDropout(8, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_node(name: str) -> None:
    traced = symbolic_trace(network(LAYERS[name]()))
    assert [(node.op, node.target) for node in traced.graph.nodes][1:-1] == [("call_module", each) for each in "012"]
    assert type(traced.get_submodule("1")) is type(LAYERS[name]())


def test_a_traced_network_follows_train_eval_and_k() -> None:
    model = network(TailDropout())
    traced, input = symbolic_trace(model), torch.randn(64, 4)
    torch.manual_seed(0)
    expected = model(input)
    torch.manual_seed(0)
    assert torch.equal(traced(input), expected)
    assert torch.equal(traced.eval()(input), model.eval()(input))
    model[1].set_k(3)
    assert torch.equal(traced(input), model(input))


class OutputsOf(Tracer):
    """Keeps modules of torch as leaves and remembers which node belongs to which module, as feature extraction does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, Any] = {}

    def create_proxy(self, kind: str, target: Any, *args: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, *args, **options)
        if kind == "call_module":
            self.names[target] = proxy.node
        return proxy


def test_features_are_taken_behind_the_layer() -> None:
    model = nn.Sequential(network(TailDropout()), nn.ReLU()).eval()
    model[0][1].set_k(3)
    tracer = OutputsOf()
    graph: Graph = tracer.trace(model)
    (output,) = [node for node in graph.nodes if node.op == "output"]
    graph.erase_node(output)
    graph.output(tracer.names["0.1"])
    features = GraphModule(model, graph)
    input = torch.randn(5, 4)
    assert torch.equal(features(input), model[0][1](model[0][0](input)))


def test_a_block_is_traced_through_to_its_four_modules() -> None:
    traced = symbolic_trace(nn.Sequential(TailMLP(4, 8, 2, activation=nn.GELU(), p=0.5)))
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0.0", "0.1", "0.2", "0.3"]


def test_functions_are_nodes_of_their_own() -> None:
    def body(input: Tensor) -> Tensor:
        return keep_first(tail_dropout(input, 0.3, dropout_dim=1) + 1, 2)

    traced = symbolic_trace(body)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        tail_dropout,
        operator.add,
        keep_first,
    ]
    input = torch.ones(64, 8)
    torch.manual_seed(0)
    expected = body(input)
    torch.manual_seed(0)
    assert torch.equal(traced(input), expected)


def test_a_layer_traced_alone_is_the_function() -> None:
    layer = TailDropout(0.3, batch_dim=[0, 1])
    (node,) = [node for node in symbolic_trace(layer).graph.nodes if node.op == "call_function"]
    assert node.target is tail_dropout
    assert node.kwargs["batch_dim"] == (0, 1)
    layer.set_k(2)
    (node,) = [node for node in symbolic_trace(layer).graph.nodes if node.op == "call_function"]
    assert node.target is keep_first
    with pytest.raises(TypeError, match=r"NestedDropout is one node of a model that torch.fx traces; trace the model"):
        symbolic_trace(NestedDropout())


def test_quantisation_keeps_the_layer() -> None:
    quantisation = pytest.importorskip("torch.ao.quantization.quantize_fx", reason="this torch has no quantisation of its own")
    from torch.ao.quantization import get_default_qconfig_mapping

    model, input = network(TailDropout()).eval(), torch.randn(256, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantisation
        prepared = quantisation.prepare_fx(model, get_default_qconfig_mapping(), (input,))
        prepared(input)
        converted = quantisation.convert_fx(prepared)
    for k in (None, 3):
        for each in (model, converted):
            next(module for module in each.modules() if isinstance(module, TailDropout)).set_k(k)
        with torch.no_grad():
            error = (converted(input) - model(input)).abs().max()
            scale = model(input).abs().max()
        assert error < 0.05 * scale  # 8 bits: steps of 1/127 of the range, rounded in three places
    assert torch.count_nonzero(keep_first(model[0](input), 3)[:, 3:]) == 0


@pytest.mark.parametrize("rows", [8, 4096])
def test_a_trace_in_training_draws_for_every_batch(rows: int) -> None:
    """`torch.jit.trace` records the drawing, for any number of samples and on either side of the eager code's threshold."""
    model = nn.Sequential(TailDropout(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(model, torch.ones(rows, 16), check_trace=False)
        alone = torch.jit.trace(lambda each: tail_dropout(each, 0.5), torch.ones(rows, 16), check_trace=False)
    for function in (traced, alone):
        first, second = function(torch.ones(5000, 16)), function(torch.ones(5000, 16))
        assert not torch.equal(first, second)
        kept = first.sum(1)
        assert torch.equal(first, keep_first(torch.ones(5000, 16), kept[:, None]))
        # The standard deviation of K is below 16 / 2, of its mean below 8 / √5000: a false alarm in 10⁹ at six of them.
        assert abs(kept.mean() - 8) < 6 * 8 / 5000**0.5


@pytest.mark.parametrize("k", [None, 100])
def test_a_trace_of_a_block_holds_for_other_inputs(k: int | None) -> None:
    """Eager code sorts samples by k, which a trace would keep for ever: it records the four modules."""
    model = TailMLP(64, 256, 32, activation=nn.GELU(), p=0.5)
    model[2].set_k(k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(model, torch.randn(4096, 64), check_trace=False)
    input = torch.randn(3000, 64)
    if k is None:
        differ = (traced(input) != traced(input)).any(1)
        assert differ.double().mean() > 0.9  # two rows draw the same k once in 50 times or so
    else:
        torch.testing.assert_close(traced(input), model(input))


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("rows", [3, 4096])
def test_a_trace_in_evaluation_is_the_model(k: int | None, rows: int) -> None:
    model = network(TailDropout()).eval()
    model[1].set_k(k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(model, torch.randn(rows, 4))
    for other in (1, 7, 4097):
        input = torch.randn(other, 4)
        torch.testing.assert_close(traced(input), model(input))


@pytest.mark.parametrize("rows", [3, 4096])
def test_a_trace_of_one_k_per_sample_warns_of_nothing(rows: int) -> None:
    """The trace belongs to so many samples; the sizes that are compared while it is made are meant as constants."""
    k = torch.arange(rows) % 9
    layer = TailDropout()
    layer.set_k(k)
    calls: list[Callable[[Tensor], Tensor]] = [
        layer,
        lambda each: keep_first(each, k[:, None]),
        lambda each: keep_first(each, 3),
        lambda each: keep_first(each, 3.5),
    ]
    for call in calls:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(call, torch.randn(rows, 8))
        input = torch.randn(rows, 8)
        assert torch.equal(traced(input), call(input))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.jit.trace(NestedDropout(), torch.randn(rows, 8), check_trace=False)
        of_k = torch.jit.trace(layer, torch.randn(rows, 8))
    with pytest.raises(RuntimeError, match="shape"):
        of_k(torch.randn(rows + 1, 8))


@pytest.mark.parametrize("layer", [TailDropout(), NestedDropout(), LearnedDropout(8, 2)], ids=lambda each: type(each).__name__)
def test_a_script_says_in_one_line_what_to_use(layer: nn.Module) -> None:
    name = type(layer).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        with pytest.raises(TypeError) as caught:
            torch.jit.script(network(layer))
    assert str(caught.value) == f"{name} cannot be scripted; use torch.jit.trace, torch.export or torch.compile instead"
