"""Behind residual connections scree gives every sample its own k."""

from typing import Any

import pytest
import torch
from package.widths.decoder import Decoder, texts
from package.widths.networks import Custom, centred, computed, loop, per_element, regression, residual
from torch import Tensor, nn
from torch.nn import functional

from taildropout import TailDropout, scree

pytestmark = pytest.mark.usefixtures("float64")


def next_token(output: Tensor, ids: Tensor) -> Tensor:
    return functional.cross_entropy(output[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


@pytest.mark.parametrize("options", [{}, {"batch_dim": [0, 1]}, {"batch_dim": ()}, {"batch_dim": 1}], ids=str)
def test_a_decoder_needs_ten_times_fewer_forwards_than_widths(options: dict[str, Any]) -> None:
    """Of what stands behind the layer: one width at a time took 65 forwards for 65 widths and 8 to choose the strategy."""
    model, batches = Decoder(hidden=64, **options), [(ids, ids) for ids in texts()]
    rows, before = computed(model.head), computed(model.blocks[0])
    result = scree(model, "blocks.1.mlp.drop", batches[:1], next_token)
    assert result.method.startswith("one k per sample along dim 0: ")
    assert "all of the model" not in result.method
    assert len(rows) <= 73 / 10, rows
    first = len(before)
    rows.clear()
    result = scree(model, "blocks.1.mlp.drop", batches, next_token)
    assert len(rows) <= 7 + 2 * 2, "every later batch: one forward that records, one for all other widths"
    assert len(before) == first + first + 2, "what stands before the layer runs once in later batches"
    torch.testing.assert_close(
        result.loss, loop(model, "blocks.1.mlp.drop", batches, next_token, range(65)), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("max_rows", [None, 14, 35, 1])
@pytest.mark.parametrize("name", ["blocks.0.mlp.drop", "blocks.1.mlp.drop"])
def test_rows_are_bounded(max_rows: int | None, name: str) -> None:
    model, batches = Decoder(hidden=16), [(ids, ids) for ids in texts((7, 7, 4))]
    rows = computed(model.head)
    result = scree(model, name, batches, next_token, max_rows=max_rows)
    assert max(rows) <= max(14, max_rows or 10**9), "two copies at least while strategies are tried"
    torch.testing.assert_close(result.loss, loop(model, name, batches, next_token, range(17)), rtol=1e-10, atol=1e-12)


def test_time_first() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.GRU(3, 8), nn.GRU(8, 5), nn.Linear(13, 3)
            self.drop = TailDropout(0.5, 1)

        def forward(self, input: Tensor) -> Any:
            hidden = self.first(input)[0]
            return self.last(torch.cat([hidden, self.second(self.drop(hidden))[0]], 2))

    model, batches = TimeFirst(), regression(6, 3, out=(6, 3), dim=1)
    result = scree(model, "drop", batches, per_element)
    assert result.method.startswith("one k per sample along dim 1: ")
    torch.testing.assert_close(result.loss, loop(model, "drop", batches, per_element, range(9)), rtol=1e-10, atol=1e-12)


def test_samples_that_depend_on_one_another_go_one_width_at_a_time() -> None:
    result = scree(Custom(centred), "drop", regression(5), per_element)
    assert result.method.startswith("one width at a time: ")
    assert "one k per sample along dim 0 does not work (an output of size" in result.method

    def only_seen_together(net: Any, x: Tensor) -> Tensor:  # at width 0 alone, and at every other width alone, nothing is added
        z = net.encode(x) + net.drop(net.encode(x))
        return net.decode(z + (z - z[:1]).mean(0))

    model, batches = Custom(only_seen_together), regression(5)
    result = scree(model, "drop", batches, per_element)
    assert "one width at a time" in result.method
    torch.testing.assert_close(result.loss, loop(model, "drop", batches, per_element, range(13)), rtol=1e-10, atol=1e-12)


def test_what_is_written_into_before_and_behind_the_layer() -> None:
    def before(net: Any, x: Tensor) -> Tensor:
        h = net.encode(x)
        h += x.sum(1, keepdim=True)
        return net.decode(h + net.drop(h).sin())

    def behind(net: Any, x: Tensor) -> Tensor:
        h = net.encode(x)
        z = net.drop(h).sin()
        h += z  # what a module before the layer gave
        return net.decode(h)

    for compose in (before, behind):
        model, batches = Custom(compose), regression(5)
        result = scree(model, "drop", batches, per_element)
        assert result.method.startswith("one k per sample along dim 0, all of the model"), result.method
        torch.testing.assert_close(result.loss, loop(model, "drop", batches, per_element, range(13)), rtol=1e-10, atol=1e-12)


def test_a_later_batch_of_another_form_is_computed_all_the_same() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Custom(residual)

        seen: bool

        def forward(self, input: Tensor) -> Any:
            if len(input) > 7 and self.seen:
                raise RuntimeError("too many samples")
            self.seen = self.seen or len(input) == 4
            return self.net(input)

    model = Fails()
    model.seen = False
    batches = regression(5, sizes=(7, 4, 7))
    result = scree(model, "net.drop", batches, per_element)
    assert "in a later batch, one k per sample along dim 0 does not work (RuntimeError: too many samples)" in result.method
    torch.testing.assert_close(result.loss, loop(model, "net.drop", batches, per_element, range(13)), rtol=1e-10, atol=1e-12)


def test_half_precision_is_as_exact_as_the_model() -> None:
    torch.set_default_dtype(torch.float32)
    model, batches = Decoder(hidden=16).bfloat16(), [(ids, ids) for ids in texts()]

    def loss(output: Any, ids: Tensor) -> Any:
        return next_token(output.float(), ids)

    result = scree(model, "blocks.0.mlp.drop", batches, loss)
    assert result.method.startswith("one k per sample")
    expected = loop(model, "blocks.0.mlp.drop", batches, loss, range(17))
    torch.testing.assert_close(result.loss, expected, rtol=1e-2, atol=0)
