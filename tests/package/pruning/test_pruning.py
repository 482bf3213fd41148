"""prune: the smaller network computes what the network computes under set_k, or an error says why there is none."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from package.pruning.pruned import Wired, checked, count, evaluated, feed_forward, followed, gru, mlp, two, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, at_k, prune
from taildropout.pruning.verification import other_inputs


def test_sizes_of_the_modules_are_right() -> None:
    smaller = prune(mlp(p=0.25), "2", 3, x())
    assert (smaller[0].out_features, smaller[3].in_features, smaller[2].p) == (3, 3, 0.25)
    assert type(smaller[2]) is TailDropout
    assert smaller[2].k is None
    assert "in_features=3" in repr(smaller)


def test_it_can_be_trained_further() -> None:
    smaller = prune(mlp(), "2", 3, x()).train()
    output = smaller(x(64, 5))
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in smaller.parameters())
    assert not torch.equal(output, smaller.eval()(x(64, 5)))


def test_the_model_stays_as_it_was() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    model(x()).sum().backward()
    seen = []
    model[3].register_forward_hook(lambda module, args, output: seen.append((module, torch.rand(1))))
    model[2].set_k(5)
    state, grad, modes = (
        copy.deepcopy(model.state_dict()),
        model[3].weight.grad.clone(),
        [each.training for each in model.modules()],
    )
    addresses = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    hooks = [len(each._forward_hooks) for each in model.modules()]
    input = x()
    given = input.clone()
    random = torch.get_rng_state()

    def assert_untouched() -> None:
        assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == addresses
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert torch.equal(model[3].weight.grad, grad)
        assert model[0].weight.grad is None
        assert [each.training for each in model.modules()] == modes
        assert [len(each._forward_hooks) for each in model.modules()] == hooks
        assert [each.requires_grad for each in model.parameters()] == [False, True, True, True]
        assert model[2].k == 5
        assert model[2].fixed_k.held_as is None
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(input, given)
        assert input.grad_fn is None
        assert not input.requires_grad
        assert torch.is_grad_enabled()
        assert torch.backends.mha.get_fastpath_enabled()
        assert not any(module is each for module, _ in seen for each in model.modules())

    smaller = prune(model, "2", 3, input)
    assert_untouched()
    assert smaller[2].k is None
    assert [each.training for each in smaller.modules()] == modes
    assert [len(each._forward_hooks) for each in smaller.modules()] == hooks
    assert [each.requires_grad for each in smaller.parameters()] == [False, True, True, True]
    assert all(parameter.grad is None for parameter in smaller.parameters())
    assert not {parameter.data_ptr() for parameter in smaller.parameters()} & {*addresses.values()}
    with pytest.raises(ValueError, match="k=9"):
        prune(model, "2", 9, input)
    assert_untouched()
    model[3].register_forward_hook(lambda module, args, output: output * torch.arange(output.shape[0], dtype=torch.float64)[:4])
    hooks[4] += 1
    with pytest.raises(RuntimeError, match="size"):
        prune(model, "2", 3, input)
    assert_untouched()


def test_the_whole_width_is_a_copy() -> None:
    model, input = mlp(), x()
    model[2].set_k(2)
    same = prune(model, model[2], 8, input)
    assert same[2].k is None
    assert same[0].weight is not model[0].weight
    assert count(same) == count(model)
    assert torch.equal(evaluated(same, input), evaluated(model, input, k=8, layer="2"))
    assert type(prune(model, "2", 8, input, remove=True)[2]) is nn.Identity


def test_a_k_of_another_layer_stays_set() -> None:
    model, input = two(8, 6).double(), x()
    model[4].set_k(2)
    smaller = prune(model, "2", 3, input)
    assert smaller[4].k == 2
    with torch.no_grad():
        expected = nn.Sequential(*model[:4])
        expected[2].set_k(3)
        hidden = expected(input)
        hidden[:, 2:] = 0
        torch.testing.assert_close(evaluated(smaller, input), model[5](hidden))


def test_inside_at_k() -> None:
    model, input = mlp(), x()
    with at_k(model, 5):
        smaller = prune(model, "2", 3, input)
        assert model[2].k == 5
    smaller[2].set_k(2)
    with pytest.warns(UserWarning, match="forgets"):
        smaller.train()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_autograd_do_not_matter(mode: Callable[[], object]) -> None:
    model = mlp()
    with mode():
        smaller = prune(model, "2", 3, x())
        assert not torch.is_grad_enabled()
    smaller.train()(x()).sum().backward()
    assert smaller[0].weight.grad.any()


def test_one_after_the_other() -> None:
    model, input = two(8, 6).double(), x()
    with at_k(model, 3, "2"), at_k(model, 2, "4"):
        expected = model(input)
    smaller = checked(checked(model, "2", 3, input), "4", 2, input, remove=True)
    assert count(smaller) == 18 + 8 + 6
    torch.testing.assert_close(evaluated(smaller, input), expected)


def test_a_slice_can_be_cut_again() -> None:
    model, input = gru(8).double(), x(4, 2, 5)
    with pytest.warns(UserWarning, match="slices 5 of 8"):
        first = checked(model, "drop", 5, input)
    assert "features=5" in repr(first)
    with pytest.warns(UserWarning, match="slices 2 of 5"):
        second = checked(first, "drop", 2, input)
    assert second.after.in_features == 2
    torch.testing.assert_close(evaluated(second, input), evaluated(model, input, k=2, layer="drop"))
    assert (second.drop.p, second.drop.batch_dim, second.drop.dropout_dim) == (0.5, 1, 2)
    assert second.drop.training
    assert repr(pickle.loads(pickle.dumps(second))) == repr(second)
    with pytest.raises(ValueError, match="greater than the 2"):
        evaluated(second, input, k=3, layer="drop")


def test_a_layer_read_in_part_is_cut_too() -> None:
    model = Wired(
        lambda m, x: m.out(m.drop(x)[:, :3]), drop=TailDropout(p=0.2, inplace=True).eval(), out=nn.Linear(3, 2)
    ).double()
    with pytest.warns(UserWarning, match="slices 3 of 8"):
        smaller = prune(model, "drop", 3, x(6, 8))
    assert repr(smaller.drop) == "SlicedTailDropout(p=0.2, batch_dim=0, dropout_dim=-1, inplace=True, features=3)"
    assert smaller.training
    assert not smaller.drop.training


def test_a_bias_that_takes_up_a_constant_is_as_frozen_as_its_weight() -> None:
    for frozen in (False, True):
        model = mlp(8, nn.Sigmoid())
        model[1], model[2] = model[2], model[1]
        model[3] = nn.Linear(8, 2, bias=False).double().requires_grad_(not frozen)
        smaller = checked(model, "1", 3, x())
        assert smaller[3].bias.requires_grad is not frozen
        assert smaller[3].weight.requires_grad is not frozen


def test_weights_that_are_computed_cannot_be_cut() -> None:
    model = followed(nn.Linear(8, 2)).double()
    nn.utils.parametrizations.weight_norm(model.after[0])
    with pytest.raises(PruningError, match=r"'after.0' is computed from other parameters; fold it first"):
        prune(model, "drop", 3, x())
    nn.utils.parametrize.remove_parametrizations(model.after[0], "weight")
    checked(model, "drop", 3, x())
    nn.utils.parametrizations.weight_norm(model.a)
    with pytest.warns(UserWarning, match="slices"):
        checked(model, "drop", 3, x())


def test_a_network_that_changes_itself_is_refused() -> None:
    """An embedding with max_norm shrinks its rows when they are read, by the norm over all features."""
    model = nn.Sequential(nn.Embedding(9, 8, max_norm=0.1), TailDropout(), nn.Linear(8, 2))
    with pytest.raises(PruningError, match="own precision"):
        prune(model, "1", 3, torch.randint(9, (4, 5)))


def test_one_module_under_two_names_is_not_tied() -> None:
    model = followed(nn.Linear(8, 2)).double()
    model.alias, model.again = model.a, model.drop
    smaller = checked(model, "drop", 3, x(), remove=True)
    assert smaller.alias is smaller.a
    assert smaller.alias.out_features == 3
    assert type(smaller.again) is type(smaller.drop) is nn.Identity


def test_equality_by_luck_is_not_enough() -> None:
    """A LayerNorm whose gain is 0 gives the same for every k, today."""
    model = followed(nn.LayerNorm(8), nn.Linear(8, 2)).double()
    nn.init.zeros_(model.after[0].weight)
    with pytest.raises(PruningError, match="LayerNorm"):
        prune(model, "drop", 3, x())
    model = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x)) + m.a(x))).double()
    nn.init.zeros_(model.after[0].weight)
    with pytest.raises(PruningError, match="sum"):
        prune(model, "drop", 3, x())
    rezero = {"gain": nn.ParameterList([torch.zeros(1)]), "a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)}
    with pytest.raises(PruningError, match="mean mixes"):
        prune(Wired(lambda m, x: m.out(h := m.drop(m.a(x))) + m.gain[0] * h.mean(-1, True), **rezero).double(), "drop", 3, x())
    model = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x)) + x.sum(-1, keepdim=True))).double()
    with pytest.raises(PruningError, match="sum"):
        prune(model, "drop", 3, torch.zeros(6, 5, dtype=torch.float64))


def test_other_inputs_are_of_the_same_kind() -> None:
    given = (torch.zeros(50), {"ids": torch.arange(3), "mask": torch.tensor([0.0, -torch.inf])}, 2, x(50).abs())
    zeros, rest, two, sizes = other_inputs(given)
    assert zeros.unique().numel() > 1
    assert torch.equal(rest["ids"], torch.arange(3))
    assert torch.equal(rest["mask"], given[1]["mask"])
    assert two == 2
    assert given[3].min() <= sizes.min() < sizes.max() <= given[3].max()
    assert not torch.equal(sizes, given[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, input = mlp(64, nn.Sigmoid()).to(dtype), x().to(dtype)
    smaller = prune(model, "2", 20, input)
    assert {parameter.dtype for parameter in smaller.parameters()} == {dtype}
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(evaluated(smaller, input), evaluated(model, input, k=20, layer="2"), rtol=4 * eps, atol=4 * eps)


def test_low_precision_does_not_hide_what_one_feature_adds() -> None:
    model = Wired(lambda m, x: m.out(m.a(x) + m.drop(m.a(x))), a=nn.Linear(5, 512), drop=TailDropout(), out=nn.Linear(512, 2))
    with pytest.raises(PruningError, match="sum"):
        prune(model.bfloat16(), "drop", 511, x().bfloat16())


def test_a_network_that_insists_on_its_precision() -> None:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        return m.after(m.drop(m.a(x.float())))

    model = followed(nn.Linear(8, 2), wiring=wiring)
    smaller = prune(model, "drop", 3, x().float())
    assert smaller.a.out_features == 3
    low = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x.bfloat16())))).bfloat16()
    with pytest.raises(PruningError, match=r"model.float\(\)"):
        prune(low, "drop", 3, x().bfloat16())


def test_the_kinds_of_inputs_and_outputs() -> None:
    def wiring(m: nn.Module, x: Tensor, scale: float, ids: Tensor | None = None) -> object:
        hidden = m.drop(m.a(x)) * scale
        return {"first": m.out(hidden), "rest": (m.other(hidden), None, "text", 3, x.argmax(-1))}

    modules = {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2), "other": nn.Linear(8, 3)}
    model, input = Wired(wiring, **modules).double(), x()
    expected = evaluated(model, input, 2.0, k=3, layer="drop")
    for arguments in ((input, 2.0), [input, 2.0], {"x": input, "scale": 2.0, "ids": None}):
        smaller = prune(model, "drop", 3, arguments)
        found = evaluated(smaller, input, 2.0)
        torch.testing.assert_close(found["first"], expected["first"])
        torch.testing.assert_close(found["rest"][0], expected["rest"][0])
        assert count(smaller) == 18 + 8 + 12


def test_a_transformer_in_training_mode_and_its_fast_path() -> None:
    model, input = feed_forward(16).double().train(), x(2, 4, 8)
    smaller = prune(model, model.dropout, 5, input, remove=True)
    assert smaller.training
    expected = evaluated(model, input, k=5, layer="dropout")
    torch.testing.assert_close(evaluated(smaller, input), expected)
    encoder = nn.TransformerEncoder(model, 2, enable_nested_tensor=False)
    names = [name for name, module in encoder.named_modules() if isinstance(module, TailDropout)]
    half = checked(encoder.double(), names[0], 5, input)
    whole = checked(half, names[1], 3, input)
    assert [each.linear1.out_features for each in whole.layers] == [5, 3]
