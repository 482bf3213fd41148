"""scree leaves everything as it was, and says clearly what it cannot work with."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from package.widths.networks import Custom, centred, loop, normal, per_element, regression, wide_linear
from torch import Tensor, nn

from taildropout import TailDropout, at_k, prune, scree

pytestmark = pytest.mark.usefixtures("float64")


def state(model: nn.Module) -> tuple[Any, ...]:
    return (
        [(module.training, sorted(module.__dict__), module.__dict__.get("forward")) for module in model.modules()],
        [None if module.k is None else module.k.item() for module in model.modules() if isinstance(module, TailDropout)],
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def noisy_batches(error: Exception | None = None) -> Iterator[Any]:
    yield from regression(5)
    torch.rand(3)
    if error:
        raise error


class Planted(Exception):
    pass


def failing(output: Tensor, target: Tensor) -> Tensor:
    raise Planted


@pytest.mark.parametrize("fails", ["", "loss", "batches"])
def test_everything_is_left_as_it_was(fails: str) -> None:
    model = nn.Sequential(nn.Linear(5, 12), TailDropout(), nn.BatchNorm1d(12), nn.Dropout(), TailDropout(), nn.Linear(12, 3))
    model[2].eval()  # frozen, in a model that trains
    model[1].set_k(5)
    model[4].set_k(7)
    model[0].forward = model[0].forward  # someone's own
    before = state(model)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("error")
        if fails:
            with pytest.raises(Planted):
                scree(
                    model,
                    "1",
                    noisy_batches(Planted() if fails == "batches" else None),
                    failing if fails == "loss" else per_element,
                )
        else:
            scree(model, model[1], noisy_batches(), per_element)
    assert state(model) == before
    model[1].set_k(None)
    model[4].set_k(None)
    assert model.train()(torch.randn(4, 5)).requires_grad


NET = wide_linear().double()
COUNT = itertools.count(1)
FIVE = regression(5)
NAN = [FIVE[0], (torch.full((3, 5), torch.nan, dtype=torch.float64), normal(3, 3))]
WRONG = {
    "a name that is none": (NET, "7", FIVE, per_element, {}, KeyError, "no TailDropout is named '7'; those .* are: '2'"),
    "the name of something else": (NET, "1", FIVE, per_element, {}, KeyError, "'2'"),
    "a layer of another model": (NET, TailDropout(), FIVE, per_element, {}, ValueError, "no module of this Sequential"),
    "another module": (NET, NET[1], FIVE, per_element, {}, TypeError, "layer has type ReLU"),
    "a pattern for one": (NET, "*", FIVE, per_element, {}, KeyError, r"'\*' is a pattern; give a list, \['\*'\]"),
    "no layers": (NET, [], FIVE, per_element, {}, ValueError, "empty sequence"),
    "a layer twice": (NET, ["2", NET[2]], FIVE, per_element, {}, ValueError, "'2' is given twice"),
    "no module": (max, TailDropout(), FIVE, per_element, {}, TypeError, "give an nn.Module"),
    "beyond n": (NET, "2", FIVE, per_element, {"widths": [3, 13]}, ValueError, "width 13 is greater than the 12 features"),
    "negative": (NET, "2", FIVE, per_element, {"widths": [3, -1]}, ValueError, "width -1 is negative"),
    "repeated": (NET, "2", FIVE, per_element, {"widths": [3, 1, 3]}, ValueError, "width 3 is given twice"),
    "no widths": (NET, "2", FIVE, per_element, {"widths": []}, ValueError, "widths is empty"),
    "fractions": (NET, "2", FIVE, per_element, {"widths": [0.5]}, TypeError, "not all ints"),
    "bools": (NET, "2", FIVE, per_element, {"widths": [True]}, TypeError, "not all ints"),
    "a word": (NET, "2", FIVE, per_element, {"widths": "linear"}, TypeError, "'log'"),
    "an int": (NET, "2", FIVE, per_element, {"widths": 5}, TypeError, "give ints"),
    "no batch": (NET, "2", iter([]), per_element, {}, ValueError, "empty, or an iterator that is used up"),
    "one pair": (NET, "2", FIVE[0], per_element, {}, TypeError, "batch 1 has type Tensor and is not a pair"),
    "a tensor": (NET, "2", FIVE[0][0], per_element, {}, TypeError, "batches has type Tensor"),
    "triples": (NET, "2", [(*FIVE[0], 1)], per_element, {}, TypeError, "not a pair"),
    "loss not callable": (NET, "2", FIVE, "mse", {}, TypeError, "loss has type str; give a callable"),
    "loss None": (NET, "2", FIVE, lambda o, y: None, {}, TypeError, "the loss gave an object of type NoneType"),
    "complex loss": (NET, "2", FIVE, lambda o, y: o.sum() * 1j, {}, TypeError, "complex"),
    "loss of two shapes": (NET, "2", FIVE, lambda o, y: o.flatten()[: next(COUNT)], {}, ValueError, "per sample, always"),
    "loss of two kinds": (
        NET, "2", FIVE, lambda o, y: (o - y).sum(1) if len(o) == 7 else (o - y).sum(), {}, ValueError, "let it give one kind",
    ),
    "no losses per sample": (NET, "2", FIVE, nn.MSELoss(), {"per_sample": True}, ValueError, "reduction='none'"),
    "NaN": (NET, "2", NAN, per_element, {}, ValueError, "NaN at width 1 in batch 2"),
    "NaN means": (NET, "2", NAN, nn.MSELoss(), {}, ValueError, "NaN at width 1 in batch 2"),
    "max_batches": (NET, "2", FIVE, per_element, {"max_batches": 0}, ValueError, "max_batches=0 is no number of batches"),
    "maximize": (NET, "2", FIVE, per_element, {"maximize": 1}, TypeError, "maximize=1"),
    "call": (NET, "2", FIVE, per_element, {"call": 1}, TypeError, "call has type int"),
    "one dict": (NET, "2", {"x": FIVE[0][0]}, per_element, {}, TypeError, "batches has type dict; give an iterable of pairs"),
    "no loss": (NET, "2", FIVE, None, {}, ValueError, "of type Tensor, has no loss; give a loss, or batches"),
    "max_rows": (NET, "2", FIVE, per_element, {"max_rows": 0}, ValueError, "max_rows=0"),
    "the model's own error": (NET, "2", [FIVE[0], (normal(3, 4), FIVE[0][1])], per_element, {}, RuntimeError, "3x4"),
    "the loss's own error": (NET, "2", [(FIVE[0][0], normal(7, 2))], per_element, {}, RuntimeError, "must match"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_a_clear_error_and_changes_nothing(name: str) -> None:
    model, layer, batches, loss, options, kind, message = WRONG[name]
    before = state(NET)
    with pytest.raises(kind, match=message):
        scree(model, layer, batches, loss, **options)
    assert state(NET) == before


def test_a_layer_that_is_never_called() -> None:
    model = Custom(lambda net, x: net.decode(net.encode(x)))
    with pytest.raises(ValueError, match=r"^'drop' was not called on any sample of the 3 batches"):
        scree(model, "drop", FIVE, per_element)


class Followed(nn.Module):
    """A layer whose features go through a function of all samples together."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.dropout, self.last, self.mix = nn.Linear(8, 16), TailDropout(), nn.Linear(16, 3), mix

    def forward(self, input: Tensor) -> Any:
        return self.last(self.mix(self.dropout(self.first(input))))


@pytest.mark.parametrize(
    "mix",
    [
        lambda h: h @ (h.T @ h) / len(h),
        lambda h: h / (1e-3 + h.abs().max()),
        lambda h: h * (2.0 if h[:, -1].abs().sum() > 0 else 1.0),
    ],
    ids=["sum", "maximum", "any"],
)
def test_samples_that_mix_where_zeros_hide_it_are_seen(mix: Callable[[Tensor], Tensor]) -> None:
    """A copy at width 0 adds nothing to a sum, so two others must be tried together."""
    torch.manual_seed(3)
    model, batch = Followed(mix).eval(), (torch.randn(40, 8), torch.randint(3, (40,)))
    loss = nn.CrossEntropyLoss(reduction="none")
    found = scree(model, "dropout", [batch], loss)
    expected = []
    for k in range(17):
        with at_k(model, k), torch.no_grad():
            expected.append(loss(model(batch[0]), batch[1]).mean())
    assert "one width at a time" in found.method
    assert torch.allclose(found.loss, torch.stack(expected).double(), rtol=1e-5)


@pytest.mark.parametrize("widths", [[3, 7], [5], [0, 4, 9]])
def test_samples_that_mix_are_seen_at_few_widths(widths: list[int]) -> None:
    model = Custom(centred)
    found = scree(model, "drop", FIVE, per_element, widths=widths)
    torch.testing.assert_close(found.loss, loop(model, "drop", FIVE, per_element, widths), rtol=1e-10, atol=0)


def test_a_layer_that_prune_made_slice_has_the_widths_it_keeps() -> None:
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), TailDropout(), nn.Linear(12, 3))
    input = torch.randn(9, 8)
    with pytest.warns(UserWarning, match="slice"):
        pruned = prune(model, "2", 5, input)
    found = scree(pruned, "2", [(input, torch.zeros(9, 3))], nn.MSELoss())
    assert found.widths == (0, 1, 2, 3, 4, 5)


def test_weights_on_meta_are_not_asked_for_the_device() -> None:
    """Offloaded models leave the weights there that they bring in for each call."""
    model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
    here = {name: value.clone() for name, value in model[0].state_dict().items()}
    batches = [(torch.randn(6, 4), torch.randn(6, 1))]
    expected = scree(model, "1", batches, nn.MSELoss()).loss

    def bring(module: nn.Module, args: object) -> None:
        module.load_state_dict(here, assign=True)

    def put_away(module: nn.Module, args: object, output: object) -> None:
        module.to("meta")

    model[0].to("meta")
    model[0].register_forward_pre_hook(bring)
    model[0].register_forward_hook(put_away)
    torch.testing.assert_close(scree(model, "1", batches, nn.MSELoss()).loss, expected)
    for parameter in model[2].parameters():
        assert parameter.device.type == "cpu"


@pytest.mark.parametrize("batch", [(np.zeros((5, 4)), torch.zeros(5)), ({"x": [np.zeros(4)]}, torch.zeros(5))])
def test_batches_of_numpy_are_to_be_converted(batch: object) -> None:
    model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
    with pytest.raises(TypeError, match=r"batch 1 holds a NumPy array; give tensors: torch\.from_numpy\(array\)"):
        scree(model, "1", [batch], nn.MSELoss())


def test_a_loss_is_an_instance_not_a_class() -> None:
    model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
    with pytest.raises(TypeError, match=r"loss is the class MSELoss; give an instance of it: MSELoss\(\)"):
        scree(model, "1", [(torch.zeros(5, 4), torch.zeros(5, 1))], nn.MSELoss)
