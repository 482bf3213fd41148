"""prune on networks built like those of other libraries: right, or refused for the true reason."""

import copy
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from package.pruning.like_others import Conv1D, Experts, Gpt, OwnLinear, gpt
from package.pruning.pruned import Wired, checked, count, evaluated, followed, mlp, x
from torch import nn

from taildropout import PruningError, TailDropout, at_k, load_pruned, prune

IDS = torch.randint(30, (2, 5), generator=torch.Generator().manual_seed(0))


def at_5(model: nn.Module) -> object:
    with at_k(model, 5):
        return evaluated(model, IDS)


@pytest.mark.parametrize("use_cache", [False, True], ids=["without cache", "with cache"])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_gpt_is_cut_and_its_config_follows(n_layer: int, use_cache: bool) -> None:
    """Its Conv1D is unknown to torch-pruning, whose walk does not end at one layer, and which fails at the cache."""
    model = gpt(n_layer, use_cache=use_cache).double()
    smaller = prune(model, {"h.*.drop": 5}, IDS)
    assert {block["c_fc"].nf for block in smaller.h} == {block["c_proj"].nx for block in smaller.h} == {5}
    assert count(model) - count(smaller) == n_layer * 27 * (8 + 1 + 8)
    torch.testing.assert_close(evaluated(smaller, IDS), at_5(model))
    assert smaller.lm_head.weight is smaller.wte.weight  # a tie that no cut touches stays
    assert (smaller.config.n_inner, model.config.n_inner) == (5, None)
    Gpt(smaller.config).double().load_state_dict(smaller.state_dict())


def test_a_config_that_holds_the_width_by_name() -> None:
    model = gpt(2, n_inner=12).double()
    assert prune(model, {"h.*.drop": 5}, IDS).config.n_inner == 5
    model = gpt(2, n_inner=8).double()  # as many as n_embd, and as n_head would be
    assert vars(prune(model, {"h.*.drop": 5}, IDS).config) == {**vars(model.config), "n_inner": 5}


@pytest.mark.parametrize("widths", [{"h.0.drop": 5, "h.1.drop": 6}, {"h.1.drop": 5}])
def test_a_config_that_fits_no_longer_is_said(widths: dict[str, int]) -> None:
    model = gpt(2, n_inner=12).double()
    with pytest.warns(UserWarning, match=r"the config of 'Gpt' keeps n_inner = 12, .*load_pruned") as caught:
        smaller = prune(model, widths, IDS)
    assert len(caught) == 1
    assert smaller.config.n_inner == 12
    with pytest.warns(UserWarning, match="keeps n_inner = None"):
        prune(gpt(2).double(), widths, IDS)


class Configured(nn.Module):
    """A network that cannot be built from its config alone."""

    def __init__(self, other: object, config: object) -> None:
        super().__init__()
        self.config, self.layers = config, mlp()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.layers(input)


class Saved(nn.Module):
    """A network that is stored by its config, and a part with a config too."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.part = Gpt(config.part) if hasattr(config, "part") else gpt(2, n_inner=12)

    def forward(self, input: torch.Tensor) -> object:
        return self.part(input)

    def save_pretrained(self) -> None:
        """Stand for what stores weights and config."""


def test_a_config_without_a_width_is_said_where_a_model_is_stored_by_it() -> None:
    """As in DINOv2 of Hugging Face, with its mlp_ratio. Else from_pretrained fails much later."""
    model = Saved(SimpleNamespace(mlp_ratio=4)).double()
    with pytest.warns(UserWarning, match=r"the config of 'Saved' holds no width .*load_pruned") as caught:
        smaller = prune(model, {"part.h.*.drop": 5}, IDS)
    assert len(caught) == 1
    assert (smaller.config.mlp_ratio, smaller.part.config.n_inner) == (4, 5)


class ByLayer(nn.Module):
    """A network whose config has a width for each layer, as Gemma 3n of Hugging Face."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(5, n), nn.ReLU(), TailDropout(), nn.Linear(n, 5)) for n in config.intermediate_size)
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.layers(input)

    def save_pretrained(self) -> None:
        """Stand for what stores weights and config."""


def test_a_config_that_holds_a_width_for_each_layer() -> None:
    model = ByLayer(SimpleNamespace(intermediate_size=[8, 8, 9])).double()
    smaller = prune(model, {"layers.0.2": 3, "layers.2.2": 4}, x())
    assert (smaller.config.intermediate_size, model.config.intermediate_size) == ([3, 8, 4], [8, 8, 9])
    ByLayer(smaller.config).double().load_state_dict(smaller.state_dict())
    assert load_pruned(model, smaller.state_dict()).config.intermediate_size == [3, 8, 4]
    model.config.intermediate_size = [3, 8]  # which is not what the model was built from
    with pytest.warns(UserWarning, match="the config of 'ByLayer' holds no width"):
        prune(model, {"layers.2.2": 2}, x())


def test_a_config_inside_another_is_enough() -> None:
    """As in CLIP of Hugging Face, whose parts are built from configs inside the model's own."""
    model = Saved(SimpleNamespace(part=gpt(2, n_inner=12).config)).double()
    assert prune(model, {"part.h.*.drop": 5}, IDS).config.part.n_inner == 5
    with pytest.warns(UserWarning, match="the config of 'part' keeps n_inner = 12") as caught:
        prune(model, {"part.h.0.drop": 5, "part.h.1.drop": 4}, IDS)
    assert len(caught) == 1


def test_the_outermost_config_stands_for_those_of_its_parts() -> None:
    """As in T5 of Hugging Face, whose encoder and decoder have configs of their own with the same number."""
    model = Saved(SimpleNamespace(part=gpt(2, n_inner=12).config, d_ff=12)).double()
    with pytest.warns(UserWarning, match="the config of 'Saved' keeps d_ff = 12") as caught:
        prune(model, {"part.h.0.drop": 5, "part.h.1.drop": 4}, IDS)
    assert len(caught) == 1


def test_a_config_without_a_constructor_goes_by_its_names() -> None:
    model = Configured(None, SimpleNamespace(ffn_dim=8, width=8, layers=2))
    assert vars(prune(model, {"*": 3}, x()).config) == {"ffn_dim": 3, "width": 8, "layers": 2}
    model.layers.append(nn.Linear(2, 8).double())  # of the old width, and no layer's
    with pytest.warns(UserWarning, match="keeps ffn_dim = 8"):
        assert prune(model, {"*": 3}, x()).config.ffn_dim == 8
    frozen = Configured(None, (SimpleNamespace(ffn_dim=8)))
    frozen.config = type("Frozen", (SimpleNamespace,), {"__setattr__": lambda *args: (_ for _ in ()).throw(TypeError())})(
        ffn_dim=8
    )
    with pytest.warns(UserWarning, match="keeps ffn_dim = 8"):
        prune(frozen, {"*": 3}, x())


def test_a_conv1d_takes_up_constants_in_its_bias() -> None:
    layers = {"a": Conv1D(8, 5), "drop": TailDropout(), "act": nn.Sigmoid(), "out": Conv1D(2, 8)}
    model = Wired(lambda m, x: m.out(m.act(m.drop(m.a(x)))), **layers).double()
    assert count(checked(model, "drop", 3, x())) == 18 + 8


def test_a_layer_inside_the_module_that_reads_it() -> None:
    """A pre-hook puts it there, so that no key of the state_dict changes."""
    for last in (nn.Linear(8, 2), Conv1D(2, 8)):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), last).double()
        keys = [*model.state_dict()]
        last.tail = TailDropout()
        last.register_forward_pre_hook(lambda module, args: (module.tail(*args),))
        smaller = checked(model, "2.tail", 3, x())
        assert count(smaller) == 18 + 8
        assert [*smaller.state_dict()] == keys


@pytest.mark.parametrize("activation", [nn.GELU, nn.Sigmoid])
def test_experts_are_cut_if_the_example_inputs_reach_them(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, input = Experts(activation).double(), x(60, 5)
    smaller = prune(model, {"experts.0.2": 3, "experts.1.2": 4, "experts.2.2": 8}, input)
    assert [each[0].out_features for each in smaller.experts] == [3, 4, 8]
    other = x(40, 5)
    with at_k(model, 3, "experts.0.2"), at_k(model, 4, "experts.1.2"):
        expected = evaluated(model, other)
    torch.testing.assert_close(evaluated(smaller, other), expected)
    with torch.no_grad():
        model.router.bias[1] = -1e9
    with pytest.raises(
        ValueError, match=r"'experts.1.2' was not called on any sample of the example inputs; give inputs that reach it"
    ):
        prune(model, {"experts.*.2": 3}, input)


def quantised_buffer() -> nn.Module:
    model = mlp()
    model[3].register_buffer("qweight", torch.ones(2, 8, dtype=torch.int32))
    return model


def quantised_parameter() -> nn.Module:
    model = mlp()
    model[3].weight = nn.Parameter(model[3].weight.to(torch.int8), requires_grad=False)
    return model


class PackedLinear(nn.Linear):
    """A module of a library for quantisation."""


PackedLinear.__module__ = "torch.ao.nn.quantized.modules.linear"


def offloaded() -> nn.Module:
    model = mlp()
    model[3].to("meta")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (quantised_buffer, r"'3.qweight' is quantised \(torch.int32\), .* prune the model before it is quantised"),
        (quantised_parameter, r"'3.weight' is quantised \(torch.int8\)"),
        (lambda: nn.Sequential(*mlp()[:3], PackedLinear(8, 2)).double(), r"'3' is quantised \(PackedLinear\)"),
        (offloaded, "'3.weight' is on the meta device, offloaded or not yet loaded; load the whole model"),
        (
            lambda: nn.Sequential(nn.LazyLinear(8), TailDropout(), nn.Linear(8, 2)),
            "'0.weight' has no size .* run the model once",
        ),
    ],
    ids=["integer buffer", "integer parameter", "quantised module", "offloaded", "lazy"],
)
def test_weights_that_are_not_there_as_numbers_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(make(), {"*": 3}, x())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_old_weight_norm_is_refused_where_it_is_cut() -> None:
    model = nn.Sequential(nn.Linear(5, 8), TailDropout(), nn.Linear(8, 4), nn.Linear(4, 2)).double()
    nn.utils.weight_norm(model[2])
    with pytest.raises(PruningError, match=r"'2.weight' is computed from other parameters: fold it first .remove_weight_norm"):
        prune(model, "1", 3, x())
    with torch.no_grad():
        model(x())  # its weight is one without a gradient now, and it can be copied
    with pytest.raises(
        PruningError, match=r"the weight of '2' is computed from other parameters; fold it first .*remove_weight"
    ):
        prune(model, "1", 3, x())
    nn.utils.remove_weight_norm(model[2])
    nn.utils.weight_norm(model[3])
    with torch.no_grad():
        model(x())
    checked(model, "1", 3, x())


def test_a_module_that_the_graph_does_not_know_is_named() -> None:
    with pytest.raises(
        PruningError, match=r"'after.0.kernel' is the weight of a module of a type that torch-pruning does not know"
    ):
        prune(followed(OwnLinear(8, 2)).double(), "drop", 3, x())
    model = nn.Sequential(OwnLinear(5, 8), TailDropout(), nn.Linear(8, 2)).double()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        smaller = checked(model, "1", 3, x())
    assert smaller[2].in_features == 3


def test_inputs_that_the_network_changes_are_copied() -> None:
    """A cache of keys and values is such an input."""

    class Cache:
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

    def wiring(m: nn.Module, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        cache.seen.append(x)
        return m.out(m.drop(m.a(x))) + sum(cache.seen).sum()

    model = Wired(wiring, a=nn.Linear(5, 8), drop=TailDropout(), out=nn.Linear(8, 2)).double()
    cache = Cache()
    cache.seen.append(x())
    before = copy.deepcopy(cache.seen)
    smaller = prune(model, {"drop": 3}, {"x": x(), "cache": cache})
    assert count(smaller) == 18 + 8
    assert len(cache.seen) == 1
    assert torch.equal(cache.seen[0], before[0])
