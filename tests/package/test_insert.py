"""insert_dropout, remove_dropout and replace_dropout: a TailDropout in models that were not written for it."""

import copy
import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from taildropout import TailDropout, at_k, insert_dropout, keep_first, prune, remove_dropout, replace_dropout, scree


class Gated(nn.Module):
    """The feed-forward block of Llama."""

    def __init__(self, features: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(features, hidden, bias=False)
        self.up_proj = nn.Linear(features, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(input)) * self.up_proj(input))
        return output


class Decoder(nn.Module):
    """Gated blocks with residual connections and norms around them."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"mlp": Gated(), "norm": nn.LayerNorm(8)}) for _ in range(depth))

    def forward(self, input: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            input = input + layer["mlp"](layer["norm"](input))
        return input


def inserted() -> Decoder:
    return insert_dropout(Decoder(), before="layers.*.mlp.down_proj", p=0.4, batch_dim=[0, 1])


def by_hand(model: Decoder, input: Tensor, widths: list[int]) -> Tensor:
    """Return the model's output from the first features of each hidden layer, computed with its weights."""
    for layer, k in zip(model.layers, widths, strict=True):
        assert isinstance(layer, nn.ModuleDict)
        block, normed = layer["mlp"], layer["norm"](input)
        hidden = nn.functional.silu(normed @ block.gate_proj.weight.T) * (normed @ block.up_proj.weight.T)
        input = input + keep_first(hidden, k) @ block.down_proj.weight.T
    return input


def test_it_drops_what_the_named_modules_read() -> None:
    model, input = inserted(), torch.randn(3, 5, 8)
    names = [name for name, module in model.named_modules() if isinstance(module, TailDropout)]
    assert names == ["layers.0.mlp.down_proj.dropout_before", "layers.1.mlp.down_proj.dropout_before"]
    assert repr(model.get_submodule(names[0])) == "TailDropout(p=0.4, batch_dim=[0, 1], dropout_dim=-1)"
    with torch.no_grad(), at_k(model, {"*.0.*": 3, "*.1.*": 7}):
        torch.testing.assert_close(model.eval()(input), by_hand(model, input, [3, 7]))
    seen: list[Tensor] = []
    down = model.train().get_submodule("layers.0.mlp.down_proj")
    down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(input)
    kept = (seen[0] != 0).sum(-1)
    assert torch.equal(seen[0] != 0, torch.arange(16) < kept[..., None])
    assert len(kept.unique()) > 2


def test_after_drops_what_the_named_modules_give() -> None:
    model = insert_dropout(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), after="1")
    input = torch.randn(5, 4)
    with at_k(model, 3), torch.no_grad():
        torch.testing.assert_close(model.eval()(input), model[2](keep_first(model[0](input).relu(), 3)))


def test_keys_of_the_state_dict_and_the_output_in_evaluation_stay() -> None:
    plain, input = Decoder(), torch.randn(2, 5, 8)
    model = insert_dropout(copy.deepcopy(plain), before="*.down_proj", after="*.norm")
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(input), plain.eval()(input))
    assert not torch.equal(model.train()(input), plain.train()(input))


def test_the_mode_follows_the_model_from_the_start() -> None:
    model = insert_dropout(Decoder().eval(), before="*.down_proj")
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.train().modules())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_copy_has_layers_of_its_own(again: Callable[[Any], Any]) -> None:
    model, input = inserted().eval(), torch.randn(2, 5, 8)
    other = again(model)
    with at_k(other, 2), torch.no_grad():
        torch.testing.assert_close(other(input), by_hand(other, input, [2, 2]))
        torch.testing.assert_close(model(input), by_hand(model, input, [16, 16]))
    full = model(input)
    assert torch.equal(remove_dropout(other)(input), full)
    assert not [module for module in other.modules() if isinstance(module, TailDropout)]
    with at_k(model, 2):  # of which removing it from the copy took nothing
        assert not torch.equal(model(input), full)


def test_a_whole_model_is_saved_with_it() -> None:
    model, file, input = inserted().eval(), io.BytesIO(), torch.randn(2, 5, 8)
    torch.save(model, file)
    file.seek(0)
    with at_k(torch.load(file, weights_only=False), 4) as loaded:
        torch.testing.assert_close(loaded(input), by_hand(model, input, [4, 4]))


@pytest.mark.usefixtures("compiler")
def test_it_compiles_whole_and_draws() -> None:
    model, input = inserted(), torch.randn(4, 5, 8)
    compiled = torch.compile(model, fullgraph=True)
    assert not torch.equal(compiled(input), compiled(input))
    with at_k(model, 3):
        torch.testing.assert_close(compiled(input), by_hand(model, input, [3, 3]))
    model.eval()
    torch.testing.assert_close(compiled(input), by_hand(model, input, [16, 16]))


def test_checkpointing_draws_the_same_again() -> None:
    model, input = inserted(), torch.randn(2, 5, 8, requires_grad=True)
    torch.manual_seed(3)
    plain = torch.autograd.grad(model(input).square().sum(), input)[0]
    torch.manual_seed(3)
    output = checkpoint(model, input, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(output.square().sum(), input)[0], plain)


def test_scree_and_prune_find_it() -> None:
    torch.manual_seed(0)
    model = insert_dropout(nn.Sequential(Gated(), nn.Flatten(), nn.Linear(40, 2)), before="0.down_proj").eval()
    input, target = torch.randn(6, 5, 8), torch.randn(6, 2)
    name = "0.down_proj.dropout_before"
    result = scree(model, name, [(input, target)], nn.functional.mse_loss, widths=[0, 3, 16], progress=False)
    for k, loss in zip(result.widths, result.loss.tolist(), strict=True):
        with at_k(model, k), torch.no_grad():
            assert loss == pytest.approx(nn.functional.mse_loss(model(input), target).item(), rel=1e-5)
    pytest.importorskip("torch_pruning", reason="prune needs torch-pruning: pip install 'taildropout[prune]'")
    small = prune(model, name, 3, input)
    assert small[0].down_proj.in_features == 3
    with at_k(model, 3), torch.no_grad():
        torch.testing.assert_close(small(input), model(input))


def test_a_transformer_layer_leaves_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    input = torch.randn(3, 5, 16)
    with torch.no_grad():
        full = layer(input)
        insert_dropout(layer, before="linear2")
        torch.testing.assert_close(layer(input), full)
        with at_k(layer, 0):
            torch.testing.assert_close(
                layer(input), layer.norm2(layer.norm1(input + layer._sa_block(input, None, None)) + layer.linear2.bias)
            )


def test_dynamic_quantisation_keeps_what_evaluation_computes() -> None:
    model = insert_dropout(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), before="2").eval()
    input = torch.randn(5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that it will move
        plain = torch.ao.quantization.quantize_dynamic(remove_dropout(copy.deepcopy(model)), {nn.Linear})
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    assert torch.equal(quantised(input), plain(input))


def test_symbolic_tracing_keeps_the_module_with_its_layer() -> None:
    model = insert_dropout(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), before="2").eval()
    traced, input = torch.fx.symbolic_trace(model), torch.randn(5, 8)
    with at_k(traced, 3):
        assert torch.equal(
            traced(input), model[2].dropout_before(torch.relu(model[0](input))) @ model[2].weight.T + model[2].bias
        )


def test_keyword_arguments_are_dropped_from_too() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 2)

        def forward(self, input: Tensor) -> Tensor:
            output: Tensor = self.linear(input=input)
            return output

    model, input = insert_dropout(Model(), before="linear").eval(), torch.randn(5, 8)
    with at_k(model, 2):
        assert torch.equal(model(input), model.linear.forward(keep_first(input, 2)))


def test_replicas_of_data_parallel_use_their_own_layers() -> None:
    """A replica has its own submodules, and the hooks of the model."""
    model = insert_dropout(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), before="1")
    replica = model[1]._replicate_for_data_parallel()
    replica._modules = {"dropout_before": TailDropout(1.0)}
    for name, weight in model[1].named_parameters():
        replica.__dict__[name] = weight
    assert torch.equal(replica(torch.randn(3, 8)), model[1].bias.expand(3, 2))


def test_remove_dropout_leaves_the_model_as_it_was() -> None:
    plain = Decoder()
    model, input = copy.deepcopy(plain), torch.randn(2, 5, 8)
    insert_dropout(model, before="*.down_proj", after="*.norm")
    assert remove_dropout(model, "layers.1.*") is model
    assert {name for name, module in model.named_modules() if isinstance(module, TailDropout)} == {
        "layers.0.mlp.down_proj.dropout_before",
        "layers.0.norm.dropout_after",
    }
    remove_dropout(model)
    assert repr(model) == repr(plain)
    assert torch.equal(model(input), plain(input))
    assert [list(vars(module)) for module in model.modules()] == [list(vars(module)) for module in plain.modules()]
    insert_dropout(model, before="*.down_proj")  # a place may be used again


def test_remove_dropout_says_what_there_is_and_changes_nothing() -> None:
    model = inserted()
    with pytest.raises(KeyError, match=re.escape("those of Decoder are: 'layers.0.mlp.down_proj', 'layers.1.mlp.down_proj'")):
        remove_dropout(model, "*.norm")
    with pytest.raises(KeyError, match="no module is named 'nowhere'"):
        remove_dropout(model, "nowhere")
    with pytest.raises(ValueError, match="has no TailDropout"):
        remove_dropout(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no layer that insert_dropout has inserted"):
        remove_dropout(nn.Sequential(TailDropout()))
    assert len([module for module in model.modules() if isinstance(module, TailDropout)]) == 2


def compiled_part() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Sequential(nn.Linear(2, 2))))


def two_linears() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def nested() -> nn.Module:
    """An nn.Sequential would call an inserted layer as one of its modules, and the hook would call it again."""
    return nn.Sequential(nn.Sequential(OrderedDict(first=nn.Linear(2, 2), last=nn.Linear(2, 2))))


SHARED = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (Decoder, {}, ValueError, "neither before nor after"),
        (Decoder, {"befor": "*.down_proj"}, TypeError, "befor"),
        (Decoder, {"before": "*.down"}, KeyError, "no module is named '*.down'; "),
        (two_linears, {"before": "3"}, KeyError, "those of Sequential are: '0', '1'"),
        (Decoder, {"before": ["*.down_proj", "layers.7"]}, KeyError, "no module is named 'layers.7'"),
        (Decoder, {"before": []}, ValueError, "before is empty"),
        (Decoder, {"before": 3}, TypeError, "before=3 has type int"),
        (Decoder, {"before": [3]}, TypeError, "before holds 3 of type int"),
        (Decoder, {"before": "*.down_proj", "p": 2}, ValueError, "p=2"),
        (Decoder, {"before": "*.down_proj", "batch_dims": 0}, TypeError, "batch_dims"),
        (Decoder, {"before": "*"}, ValueError, "matches the model itself"),
        (inserted, {"before": "*.down_proj"}, ValueError, "has a dropout_before already; call remove_dropout first"),
        (nested, {"before": "0"}, ValueError, "name the module inside it: '0.first'"),
        (nested, {"after": "0"}, ValueError, "name the module inside it: '0.last'"),
        (lambda: nn.Sequential(SHARED, nn.ReLU(), SHARED), {"before": "2"}, ValueError, "it stands at '0', '2'"),
        (lambda: torch.compile(Decoder()), {"before": "*.down_proj"}, ValueError, "model._orig_mod"),
        (compiled_part, {"before": "1.*.0"}, ValueError, "a part of '1' that is"),
    ],
)
def test_bad_input_is_an_error_and_changes_nothing(
    make: Callable[[], nn.Module], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = make()
    before = repr(model)
    with pytest.raises(error, match=re.escape(message)):
        insert_dropout(model, **options)
    assert repr(model) == before


def test_what_is_no_tensor_is_an_error_that_names_the_module() -> None:
    model = nn.ModuleDict({"rnn": nn.GRU(4, 4), "embed": nn.Embedding(3, 4)})
    insert_dropout(model, after="rnn", before="embed")
    with pytest.raises(TypeError, match="the output of 'rnn' has type tuple, not Tensor"):
        model["rnn"](torch.randn(2, 4))
    with pytest.raises(TypeError, match="the input of 'embed' has type list, not Tensor"):
        model["embed"]([1, 2])


def test_replace_dropout_takes_patterns() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2)), nn.Dropout(0.3))
    replace_dropout(model, "[01].0")
    assert [type(model[0][0]), type(model[1][0]), type(model[2])] == [TailDropout, TailDropout, nn.Dropout]
    with pytest.raises(KeyError, match=r"no Dropout is named 'x\.\*'; those of Sequential are: '2'"):
        replace_dropout(model, ["2", "x.*"])


def test_replace_dropout_warns_of_a_p_of_0() -> None:
    with pytest.warns(UserWarning, match="the nn.Dropout '1' has p=0, so its TailDropout drops nothing; give p=0.5, say"):
        replace_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), "1")
    model = replace_dropout(nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.0)), ["0"], p=0.5)
    assert model[0].p == 0.5
    assert replace_dropout(model, ["1"], p=0)[1].p == 0  # as asked
