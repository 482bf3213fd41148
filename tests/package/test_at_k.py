"""at_k and replace_dropout, and that nothing bypasses the layer while k is set."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taildropout import TailDropout, at_k, keep_first, replace_dropout


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), TailDropout(0.3), nn.Linear(16, 8), TailDropout(0.4))


def test_at_k_sets_every_layer_and_restores_what_was_there() -> None:
    net = model()
    net[3].set_k(5)
    with at_k(net, 2) as same:
        assert same is net
        assert [int(net[at].k) for at in (1, 3)] == [2, 2]
        assert net(torch.rand(5, 4))[:, 2:].eq(0).all()
    assert net[1].k is None
    assert int(net[3].k) == 5


def test_at_k_restores_after_an_exception() -> None:
    net = model()
    net[3].set_k(5)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ZeroDivisionError), at_k(net, 2):
        raise ZeroDivisionError
    assert net[1].k is None
    assert int(net[3].k) == 5
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    with pytest.warns(UserWarning, match="k=5"):  # train() forgets again
        net.train()


def test_at_k_reaches_only_the_named() -> None:
    net = model()
    for names in ("3", ["3"], iter(["3"])):
        with at_k(net, 2, names):
            assert net[1].k is None
            assert int(net[3].k) == 2
    with pytest.raises(KeyError, match=r"'2'.*'1', '3'"), at_k(net, 2, ["3", "2"]):
        pass
    assert net[3].k is None
    with pytest.raises(ValueError, match="no TailDropout"), at_k(nn.Linear(2, 2), 2):
        pass


def test_at_k_takes_a_layer_itself_a_tensor_and_none() -> None:
    layer = TailDropout()
    with at_k(layer, torch.tensor([1, 3])):
        assert layer(torch.ones(2, 4)).sum(1).tolist() == [1, 3]
    layer.set_k(2)
    with at_k(layer, None):
        assert layer(torch.ones(500, 9)).sum(1).unique().numel() > 5
    assert int(layer.k) == 2


@pytest.mark.parametrize("bad", [-1, 2.5, True, "3", torch.tensor([0.5])])
def test_at_k_with_a_bad_k_changes_nothing(bad: object) -> None:
    net = model()
    net[1].set_k(3)
    with pytest.raises((TypeError, ValueError), match="k"), at_k(net, bad):
        pass
    assert int(net[1].k) == 3
    assert net[3].k is None
    assert torch.backends.mha.get_fastpath_enabled()


def test_inside_at_k_train_and_eval_keep_k_without_a_warning() -> None:
    net = model()
    with at_k(net, 3), warnings.catch_warnings():
        warnings.simplefilter("error")
        for switch in (net.eval, net.train):
            switch()
            assert int(net[1].k) == 3
            assert net(torch.rand(5, 4))[:, 3:].eq(0).all()
    assert net.training


def test_at_k_nests() -> None:
    net = model()
    with at_k(net, 3):
        with at_k(net, 1, "3"):
            net.eval()
            assert [int(net[at].k) for at in (1, 3)] == [3, 1]
            assert not torch.backends.mha.get_fastpath_enabled()
        assert [int(net[at].k) for at in (1, 3)] == [3, 3]
        net.train()
        assert int(net[3].k) == 3
        assert not torch.backends.mha.get_fastpath_enabled()
    assert net[3].k is None
    assert torch.backends.mha.get_fastpath_enabled()


def test_at_k_leaves_a_disabled_fast_path_disabled() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with at_k(model(), 3):
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def encoder_layer() -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
    return replace_dropout(layer, "dropout", batch_dim=[0, 1]).eval()


def by_hand(layer: nn.TransformerEncoderLayer, input: Tensor, padding: Tensor, k: int) -> Tensor:
    """Return the output of the encoder layer at width k, computed from its parts without any dropout."""
    attended, _ = layer.self_attn(input, input, input, key_padding_mask=padding, need_weights=False)
    input = layer.norm1(input + attended)
    hidden = keep_first(torch.relu(layer.linear1(input)), k)
    return layer.norm2(input + layer.linear2(hidden))


@pytest.mark.parametrize("k", [0, 3, 32])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("whole_encoder", [False, True])
def test_at_k_reaches_a_transformer_in_eval_with_padding(k: int, grad: bool, whole_encoder: bool) -> None:
    layer = encoder_layer()
    net = nn.TransformerEncoder(layer, 2).eval() if whole_encoder else layer
    input = torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    with torch.set_grad_enabled(grad), at_k(net, k):
        got = net(input, src_key_padding_mask=padding)
    wanted = input
    for each in net.layers if whole_encoder else [layer]:
        wanted = by_hand(each, wanted, padding, k)
    torch.testing.assert_close(got[~padding], wanted[~padding])


@pytest.mark.parametrize("whole_encoder", [False, True])
def test_without_at_k_the_fast_path_would_bypass_the_layer(whole_encoder: bool) -> None:
    """What at_k is for: a bare set_k changes nothing there."""
    net = encoder_layer()
    net = nn.TransformerEncoder(net, 2).eval() if whole_encoder else net
    input = torch.randn(3, 5, 16)
    with torch.no_grad():
        full = net(input)
        for module in net.modules():
            if isinstance(module, TailDropout):
                module.set_k(0)
        assert torch.equal(net(input), full)
        with at_k(net, 0):
            assert not torch.allclose(net(input), full)


def test_replace_dropout_swaps_the_named_and_keeps_p_mode_and_inplace() -> None:
    net = nn.Sequential(nn.Dropout(0.1, inplace=True), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)), nn.Dropout(0.4)).eval()
    assert replace_dropout(net, ["0", "1", "2.0"]) is net
    swapped = [net[0], net[1], net[2][0]]
    assert all(type(each) is TailDropout for each in swapped)
    assert [each.p for each in swapped] == [0.1, 0.2, 0.3]
    assert [each.inplace for each in swapped] == [True, False, False]
    assert not any(each.training for each in swapped)
    assert type(net[3]) is nn.Dropout


def test_replace_dropout_swaps_a_dropout_wherever_it_stands() -> None:
    shared = nn.Dropout(0.3)
    model = nn.ModuleDict({"a": nn.Sequential(nn.ReLU(), shared), "b": nn.Sequential(shared), "c": nn.Dropout(0.3)})
    replace_dropout(model, "a.1")
    layer = model["a"][1]
    assert isinstance(layer, TailDropout)
    assert model["b"][0] is layer
    assert isinstance(model["c"], nn.Dropout)


def test_replace_dropout_passes_options() -> None:
    net = replace_dropout(nn.Sequential(nn.Dropout(0.1)), "0", batch_dim=[0, 1], dropout_dim=2, p=0.7, inplace=True)
    assert repr(net[0]) == "TailDropout(p=0.7, batch_dim=[0, 1], dropout_dim=2, inplace=True)"


def test_replace_dropout_with_a_wrong_name_lists_those_there_and_changes_nothing() -> None:
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2), nn.Dropout(0.2))
    for names in (["0", "1"], "nowhere", ["0", "3"]):
        with pytest.raises(KeyError, match="'0', '2'"):
            replace_dropout(net, names)
    with pytest.raises(ValueError, match="itself"):
        replace_dropout(nn.Dropout(), "")
    with pytest.raises(TypeError, match="bool"):
        replace_dropout(net, ["0", "2"], batch_dim=True)
    assert [type(each) for each in net] == [nn.Dropout, nn.Linear, nn.Dropout]


def test_the_layer_that_has_fewer_features_than_k_is_named() -> None:
    model = nn.ModuleDict({"wide": nn.Sequential(TailDropout()), "narrow": nn.Sequential(TailDropout())}).eval()
    with at_k(model, 6):
        model["wide"](torch.ones(2, 8))
        with pytest.raises(
            ValueError, match=r"k=6 is greater than the 4 features of dropout_dim=-1 of 'narrow\.0'; call at_k\(4\)"
        ):
            model["narrow"](torch.ones(2, 4))
    layer = model["narrow"][0]
    layer.set_k(6)
    with pytest.raises(ValueError, match=r"features of dropout_dim=-1; call set_k\(4\) or less"):
        layer(torch.ones(2, 4))


def test_at_k_takes_a_dict_of_patterns() -> None:
    net = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), TailDropout()) for _ in range(3))
    with at_k(net, {"0.*": 2, "1.1": torch.tensor(4)}):
        assert [None if layer[1].k is None else int(layer[1].k) for layer in net] == [2, 4, None]
    assert all(layer[1].k is None for layer in net)


@pytest.mark.parametrize(
    ("k", "names", "error", "message"),
    [
        ({"0.*": 2}, "1.1", ValueError, "leave names out"),
        ({}, None, ValueError, "empty dict"),
        ({"0.*": 2, "7.*": 3}, None, KeyError, r"no TailDropout is named '7\.\*'"),
        ({"*": 2, "1.1": 3}, None, ValueError, r"'\*' and '1.1' both match '1.1' and give it k=2 and k=3"),
        ({"0.*": 2, "1.*": -1}, None, ValueError, "k=-1 is negative"),
        ({0: 2}, None, TypeError, "k has the key 0 of type int; give names or patterns"),
    ],
)
def test_a_wrong_dict_is_an_error_and_changes_nothing(
    k: dict[str, Any], names: str | None, error: type[Exception], message: str
) -> None:
    net = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), TailDropout()) for _ in range(2))
    net[0][1].set_k(5)
    with pytest.raises(error, match=message), at_k(net, k, names):
        pass
    assert int(net[0][1].k) == 5
    assert net[1][1].k is None


def shared() -> tuple[nn.ModuleDict, TailDropout]:
    """A model that holds one layer under two names."""
    layer = TailDropout()
    return nn.ModuleDict({"a": nn.Sequential(layer), "b": nn.Sequential(layer)}), layer


@pytest.mark.parametrize(
    ("first", "second"),
    [(2, 3), (2, None), (torch.tensor([1, 2]), torch.tensor([1, 3])), (torch.tensor([1, 2]), 2), (2, torch.tensor([2]))],
)
def test_one_layer_under_two_names_takes_one_k(first: Any, second: Any) -> None:
    net, layer = shared()
    layer.set_k(5)
    for pattern in ("a.*", "*"):
        message = rf"'{re.escape(pattern)}' and 'b\.0' both match 'a\.0', which is also 'b\.0', and give it k="
        with pytest.raises(ValueError, match=message), at_k(net, {pattern: first, "b.0": second}):
            pass
    assert int(layer.k) == 5


@pytest.mark.parametrize(
    ("first", "second"),
    [(2, 2), (None, None), (torch.tensor([1, 2]), torch.tensor([1, 2])), (2, torch.tensor(2, dtype=torch.int32))],
)
def test_equal_k_for_one_layer_are_no_conflict(first: Any, second: Any) -> None:
    net, layer = shared()
    for k in ({"a.0": first, "b.0": second}, {"*": first, "a.*": second}):
        with at_k(net, k):
            assert first is layer.k is None or torch.equal(layer.k, torch.as_tensor(first))
        assert layer.k is None


def test_at_most_caps_instead_of_raising() -> None:
    net, input = nn.ModuleList([TailDropout(), TailDropout()]).eval(), torch.ones(2, 8)
    with at_k(net, 6, at_most=True):
        assert torch.equal(net[0](input), keep_first(input, 6))
        assert torch.equal(net[1](input[:, :4]), input[:, :4])
        with at_k(net, 6), pytest.raises(ValueError, match="k=6 is greater than the 4 features"):
            net[1](input[:, :4])
        assert torch.equal(net[1](input[:, :4]), input[:, :4])


def test_the_last_of_several_blocks_turns_the_fast_path_on_again() -> None:
    first, second = at_k(TailDropout(), 1), at_k(TailDropout(), 1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    second.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
