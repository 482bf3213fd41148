"""How scree calls models: pairs, dicts, a function of the caller's; losses of the model's own; several layers at once."""

import functools
import sys
import types
from collections import UserDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from package.widths.decoder import LanguageModel, texts
from package.widths.networks import Custom, computed, loop, per_element, regression, wide_linear
from torch import Tensor, nn

from taildropout import Scree, TailDropout, at_k, scree

pytestmark = pytest.mark.usefixtures("float64")


class BatchEncoding(UserDict[str, Tensor]):
    """As in transformers: a mapping that is no dict, and moves by itself."""

    def to(self, device: torch.device) -> "BatchEncoding":
        return BatchEncoding({name: value.to(device) for name, value in self.items()})


def encoded(kind: type[Any] = dict, sizes: Sequence[int] = (6, 6, 3)) -> list[Any]:
    labels = [ids.masked_fill(ids == 3, -100) for ids in texts(sizes)]
    return [kind({"input_ids": ids, "labels": own}) for ids, own in zip(texts(sizes), labels, strict=True)]


def own_losses(model: nn.Module, name: str, batches: Any, widths: Any) -> Tensor:
    """Return the mean losses computed by a loop, weighted by the number of valid labels."""
    rows = []
    weights = torch.tensor([float((batch["labels"] != -100).sum()) for batch in batches])
    with torch.no_grad():
        for k in widths:
            with at_k(model.eval(), k, name):
                rows.append(torch.stack([model(**batch).loss for batch in batches]) @ weights / weights.sum())
    return torch.stack(rows)


@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize("kind", [dict, BatchEncoding])
@pytest.mark.parametrize("name", ["decoder.blocks.0.mlp.drop", "decoder.blocks.1.mlp.drop"])
def test_a_language_model_with_its_own_loss(as_mapping: bool, kind: type[Any], name: str) -> None:
    model = LanguageModel(as_mapping, hidden=12)
    rows = computed(model.decoder.head)
    result = scree(model, name, encoded(kind))
    assert len(rows) <= 5 + 2 * 2
    torch.testing.assert_close(result.loss, own_losses(model, name, encoded(), range(13)), rtol=1e-10, atol=0)
    assert result.method.startswith("one k per sample")
    assert result.maximize is False
    assert result.name == "loss"
    result.choose()


def test_the_own_loss_of_a_model_without_connections_around_the_layer() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = wide_linear(), nn.MSELoss()

        def forward(self, x: Tensor, y: Tensor) -> Any:
            output = self.net(x)
            return {"loss": self.loss(output, target=y) * 2, "output": output}

    model, pairs = Plain(), regression(5)
    batches = [{"x": x, "y": y} for x, y in pairs]
    result = scree(model, "net.2", batches)
    expected = 2 * loop(model.net, "2", pairs, nn.MSELoss(), range(13))
    weights = [float(x.numel()) for x, _ in pairs]
    assert weights[0] / weights[2] == 7 / 4
    torch.testing.assert_close(result.loss, expected, rtol=1e-10, atol=0)
    assert result.method == "running sums along dim 0"


def test_a_loss_of_dicts_gets_the_batch() -> None:
    def loss(output: Any, batch: Any) -> Any:
        return (output.logits.argmax(-1) == batch["labels"]).double().mean(1)

    model = LanguageModel(hidden=12)
    result = scree(model, "decoder.blocks.1.mlp.drop", encoded(), loss)
    rows = []
    with torch.no_grad():
        for k in range(13):
            with at_k(model.eval(), k, "decoder.blocks.1.mlp.drop"):
                rows.append(torch.cat([loss(model(**batch), batch) for batch in encoded()]).mean())
    torch.testing.assert_close(result.loss, torch.stack(rows))


def test_call_says_how_a_model_is_called() -> None:
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = wide_linear()

        def forward(self, x: Tensor, scale: Tensor) -> Any:
            return self.net(x * scale)

    model, pairs = TwoInputs(), regression(5)
    expected = scree(model.net, "2", [(2 * x, y) for x, y in pairs], per_element).loss
    result = scree(model, "net.2", pairs, per_element, call=lambda model, batch: model(batch[0], scale=2.0))
    torch.testing.assert_close(result.loss, expected)
    triples = [(x, y, torch.tensor(2.0)) for x, y in pairs]
    result = scree(
        model, "net.2", triples, lambda output, batch: per_element(output, batch[1]), call=lambda m, b: m(b[0], b[2])
    )
    torch.testing.assert_close(result.loss, expected)
    autoencoder = Custom(lambda net, x: net.decode(net.drop(net.encode(x))))
    alone = scree(autoencoder, "drop", [x for x, _ in pairs], lambda z, x: z.square(), call=lambda model, x: model(x))
    paired = scree(autoencoder, "drop", pairs, lambda z, y: z.square())
    torch.testing.assert_close(alone.loss, paired.loss)


def several() -> nn.Module:
    def part(size: int) -> list[nn.Module]:
        return [nn.Linear(size, 8), nn.ReLU(), TailDropout(), nn.Linear(8, 5)]

    return nn.Sequential(nn.Linear(5, 5), *part(5), nn.Tanh(), *part(5), nn.Linear(5, 3))


@pytest.mark.parametrize("residual", [False, True])
def test_several_layers_are_measured_in_one_call_and_share_what_stands_before(residual: bool) -> None:
    if residual:
        model, names, batches = LanguageModel(hidden=12), [f"decoder.blocks.{i}.mlp.drop" for i in (1, 0)], encoded()
        first, loss = model.decoder.blocks[0].before, None
    else:
        model, names, batches, loss = several(), ["3", "8"], regression(5), per_element
        first = model[0]
        model[8].set_k(6)
    calls = computed(first)
    scree(model, names, batches[:1], loss)
    once = len(calls)
    calls.clear()
    results = scree(model, [names[0], model.get_submodule(names[1])], batches, loss)
    assert list(results) == names
    assert len(calls) == once + 2, "once in each later batch, for both layers"
    assert sorted(scree(model, ["*"], batches, loss)) == sorted(names)
    for name, result in results.items():
        alone = scree(model, name, batches, loss)
        assert torch.allclose(result.loss, alone.loss, rtol=1e-10)
        assert result.method == alone.method
        assert result.loss.unique().numel() > 2
    assert [model.get_submodule(name).k for name in names] == ([None, None] if residual else [None, torch.tensor(6)])


def test_max_batches() -> None:
    drawn = []

    def stream() -> Iterator[Any]:
        for batch in regression(5) * 5:
            drawn.append(1)
            yield batch

    batches = regression(5)
    model = wide_linear()
    result = scree(model, "2", stream(), per_element, max_batches=2, per_sample=True)
    assert result.per_sample.shape == (13, 14)
    assert len(drawn) == 2
    assert torch.equal(
        scree(model, "2", batches, per_element, max_batches=9).loss, scree(model, "2", batches, per_element).loss
    )


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    return output.argmax(1) == target


def test_name_and_direction_come_from_the_loss_or_the_caller() -> None:
    model, batches = wide_linear(), regression(5)
    half = functools.partial(nn.functional.mse_loss, reduction="none")
    cases = [(nn.MSELoss(), "MSELoss", False), (half, "mse_loss", False), (lambda o, y: (o - y).abs(), "", None)]
    for loss, name, maximize in cases:
        result = scree(model, "2", batches, loss)
        assert (result.name, result.maximize) == (name, maximize)
    named = scree(model, "2", batches, lambda o, y: -(o - y).abs(), maximize=True, name="likeness")
    assert (named.name, named.maximize) == ("likeness", True)
    assert named.choose() == named.choose(maximize=True)
    classes = [(x, y.argmax(1)) for x, y in batches]
    assert scree(model, "2", classes, accuracy).maximize is None


class Bar:
    """Stands for tqdm's."""

    shown: ClassVar[list[tuple[str, int | None]]] = []

    def __init__(self, items: Iterable[Any], desc: str, total: int | None) -> None:
        self.items = items
        self.shown.append((desc, total))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_progress_is_shown_on_a_terminal_and_in_a_notebook_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Bar.shown.clear()
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    model, batches = wide_linear(), regression(5)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    scree(model, "2", batches, per_element)
    assert not Bar.shown
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    scree(model, "2", batches, per_element, progress=False)
    assert not Bar.shown
    scree(model, "2", batches, per_element)
    scree(model, "2", iter(batches), per_element)
    scree(model, "2", batches, per_element, max_batches=2)
    assert Bar.shown == [("scree", 3), ("scree", None), ("scree", 2)]
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    scree(model, "2", batches, per_element)
    assert len(Bar.shown) == 4
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_widgets_has_tqdms_text_and_nothing_of_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich warns there that ipywidgets is missing, and so does tqdm.auto."""
    Bar.shown.clear()
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    scree(wide_linear(), "2", regression(5), per_element)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    scree(wide_linear(), "2", regression(5), per_element)
    assert Bar.shown == [("scree", 3)]
    monkeypatch.setitem(sys.modules, "ipywidgets", types.SimpleNamespace(__spec__=object()))
    monkeypatch.setitem(sys.modules, "tqdm.notebook", types.SimpleNamespace(tqdm=Bar))
    scree(wide_linear(), "2", regression(5), per_element)
    assert len(Bar.shown) == 2


def test_progress_without_tqdm_is_richs_and_without_both_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    model, batches = wide_linear(), regression(5)
    pytest.importorskip("rich")
    result = scree(model, "2", batches, per_element)
    assert "scree" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert torch.equal(scree(model, "2", batches, per_element).loss, result.loss)
    assert isinstance(result, Scree)
    assert capsys.readouterr() == ("", "")
