"""scree gives what a loop over set_k gives, however it is computed."""

import functools
import math
from typing import Any

import pytest
import torch
from package.widths.networks import (
    NETWORKS,
    Custom,
    Recurrent,
    classes,
    loop,
    per_element,
    regression,
    residual,
    wide_linear,
)
from torch import Tensor, nn
from torch.nn import functional

import taildropout.widths.replay
from taildropout import Scree, TailDropout, at_k, scree

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("max_rows", [None, 20, 1])
def test_it_equals_the_loop_over_set_k(name: str, max_rows: int | None) -> None:
    build, layer, batches, method = NETWORKS[name]
    model = build()
    result = scree(model, layer, batches, per_element, max_rows=max_rows, per_sample=True)
    assert result.method.startswith(method), result.method
    slower = result.method.startswith(("one k", "one width"))
    assert (":" in result.method) == slower, "a reason, and only where there is one"
    assert result.loss.unique().numel() > 2
    torch.testing.assert_close(result.loss, loop(model, layer, batches, per_element, result.widths), rtol=1e-10, atol=1e-12)
    assert result.per_sample is not None
    torch.testing.assert_close(result.per_sample.mean(1), result.loss, rtol=1e-12, atol=0)


LOSSES = {
    "module": nn.CrossEntropyLoss(),
    "function": functional.cross_entropy,
    "per sample": functools.partial(functional.cross_entropy, reduction="none"),
    "smoothed, weighted": nn.CrossEntropyLoss(torch.tensor([1.0, 2, 0.5]).double(), label_smoothing=0.1),
    "one ignored, per sample": nn.CrossEntropyLoss(ignore_index=1, reduction="none"),
    "one ignored": nn.CrossEntropyLoss(ignore_index=1),
    "probabilities": lambda o, y: functional.cross_entropy(o, functional.one_hot(y, 3).double() * 0.9, reduction="none"),
    "by keyword": lambda o, y: functional.cross_entropy(target=y, input=o),
    "own": lambda o, y: o.logsumexp(1) - o.gather(1, y[:, None])[:, 0],
    "accuracy per sample": lambda o, y: o.argmax(1) == y,
    "accuracy": lambda o, y: (o.argmax(1) == y).double().mean().item(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_metrics_of_classes(name: str) -> None:
    model, batches, loss = wide_linear(), classes(5, 3, (30, 30, 11)), LOSSES[name]
    result = scree(model, "2", batches, loss)
    together = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    torch.testing.assert_close(result.loss, loop(model, "2", together, loss, range(13)), rtol=1e-10, atol=1e-12)


def test_what_stands_before_the_layer_runs_once_and_rows_are_bounded() -> None:
    calls, rows = [], []

    class Before(nn.Sequential):
        def forward(self, input: Tensor) -> Any:
            calls.append(len(input))
            return super().forward(input)

    class Behind(nn.Tanh):
        def forward(self, input: Tensor) -> Any:
            rows.append(len(input))
            return super().forward(input)

    for behind in (Behind(), nn.Sequential(nn.Linear(12, 12), Behind())):
        calls.clear()
        rows.clear()
        model = nn.Sequential(Before(nn.Linear(5, 6), nn.ReLU()), nn.ReLU(), nn.Linear(6, 12), TailDropout(), behind)
        batches = regression(5, out=(12,), sizes=(2, 9, 9, 4))
        scree(model, "3", batches, per_element, max_rows=30)
        assert calls[-3:] == [9, 9, 4]
        assert calls[:-3] == [2] * len(calls[:-3])
        later = rows[-(5 + 5 + 2) :]
        assert later == [27] * 4 + [9] + [27] * 4 + [9] + [28, 24]


def test_one_width_at_a_time_runs_what_stands_before_the_layer_once() -> None:
    calls = []

    class Before(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            calls.append(1)
            return super().forward(input)

    model = Custom(residual)
    model.encode = Before(5, 12)
    batches = regression(5)
    scree(model, "drop", batches[:1], per_element)
    first = len(calls)
    scree(model, "drop", batches, per_element)
    assert len(calls) - first == first + 2


def test_without_a_limit_all_copies_together_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    monkeypatch.setattr(taildropout.widths.replay, "_ELEMENTS_CPU", 12 * 7 * 5)
    model = nn.Sequential(TailDropout(), nn.Tanh())
    model[1].register_forward_hook(lambda module, args, output: rows.append(len(output)))
    scree(model, "0", regression(12, out=(12,), sizes=(7, 7)), per_element)
    assert rows[-3:] == [35, 35, 21]


def test_other_layers_keep_what_is_set_there() -> None:
    model = nn.Sequential(nn.Linear(5, 12), TailDropout(), nn.ReLU(), nn.Linear(12, 6), TailDropout(), nn.Linear(6, 3))
    batches = regression(5)
    free = scree(model, "1", batches, per_element).loss
    model[4].set_k(2)
    result = scree(model, "1", batches, per_element).loss
    assert (result != free).any()
    rows = []
    with torch.no_grad(), at_k(model, 2, "4"):
        model.eval()
        for k in range(13):
            with at_k(model, k, "1"):
                rows.append(torch.cat([per_element(model(x), y).mean(1) for x, y in batches]).mean())
    torch.testing.assert_close(result, torch.stack(rows), rtol=1e-12, atol=0)


def test_inputs_and_outputs_of_many_tensors() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.drop, self.decode = nn.Linear(5, 8), TailDropout(), nn.Linear(8, 3)

        def forward(self, batch: Any) -> Any:
            z = self.drop(self.encode(batch["x"]) + batch["shift"][0])
            return {"out": self.decode(z), "code": (z, "latent"), "weight": self.decode.weight}

    def loss(output: Any, target: Any) -> Any:
        assert output["code"][1] == "latent"
        assert output["weight"].shape == (3, 8)
        return per_element(output["out"], target["y"]) + output["code"][0].square().mean(1, keepdim=True)

    model = Many()
    batches = [({"x": x, "shift": (torch.tensor(0.5),)}, {"y": y}) for x, y in regression(5)]
    result = scree(model, "drop", batches, loss)
    assert result.method == "copies along dim 0"
    rows = []
    with torch.no_grad():
        for k in range(9):
            with at_k(model.eval(), k):
                rows.append(torch.cat([loss(model(x), y).mean(1) for x, y in batches]).mean())
    torch.testing.assert_close(result.loss, torch.stack(rows), rtol=1e-12, atol=0)


def test_means_count_by_the_size_of_their_target() -> None:
    model, batches = wide_linear(), regression(5, sizes=(9, 9, 2))
    by_sample = scree(model, "2", batches, per_element)
    by_batch = scree(model, "2", batches, nn.MSELoss())
    torch.testing.assert_close(by_batch.loss, by_sample.loss, rtol=1e-12, atol=0)
    uneven = [(batches[0][0], batches[0][1][:, :1]), batches[1]]
    result = scree(model, "2", uneven, lambda output, target: (output[:, : target.shape[1]] - target).mean())
    every = [
        loop(model, "2", [each], lambda output, target: (output[:, : target.shape[1]] - target).mean(), [4]) for each in uneven
    ]
    torch.testing.assert_close(result.loss[4:5], (every[0] + 3 * every[1]) / 4, rtol=1e-12, atol=0)
    floats = scree(model, "2", batches, lambda output, target: nn.MSELoss()(output, target).item())
    assert torch.equal(floats.loss, by_batch.loss)


def test_standard_errors() -> None:
    model, batches = wide_linear(), regression(5, sizes=(9, 9, 2))
    by_sample = scree(model, "2", batches, per_element, per_sample=True)
    assert by_sample.per_sample is not None
    assert by_sample.per_sample.shape == (13, 20)
    torch.testing.assert_close(by_sample.stderr, by_sample.per_sample.std(1) / math.sqrt(20), rtol=1e-10, atol=0)
    by_batch = scree(model, "2", batches, nn.MSELoss())
    means = torch.stack([part.mean(1) for part in by_sample.per_sample.split([9, 9, 2], 1)], 1)
    sizes = torch.tensor([9.0, 9, 2])
    variance = (sizes * (means - by_batch.loss[:, None]).square()).sum(1) / 2  # of one sample, from 3 batches
    torch.testing.assert_close(by_batch.stderr, (variance / 20).sqrt(), rtol=1e-10, atol=0)
    assert scree(model, "2", batches[:1], nn.MSELoss()).stderr.isnan().all()


@pytest.mark.parametrize(
    ("widths", "expected"),
    [(None, list(range(13))), ("log", [0, 1, 2, 4, 8, 12]), ([7, 0, 3], [0, 3, 7]), (range(12, 13), [12])],
)
def test_widths(widths: Any, expected: list[int]) -> None:
    model, batches = wide_linear(), regression(5)
    result = scree(model, "2", batches, per_element, widths=widths)
    assert list(result.widths) == expected
    torch.testing.assert_close(result.loss, scree(model, "2", batches, per_element).loss[expected], rtol=1e-12, atol=0)


def test_widths_on_a_log_scale_end_in_n_once() -> None:
    model = nn.Sequential(nn.Linear(5, 8), TailDropout(), nn.Linear(8, 3))
    assert scree(model, "1", regression(5), per_element, widths="log").widths == (0, 1, 2, 4, 8)


def test_an_infinite_loss_at_one_width_is_no_error() -> None:
    model = nn.Sequential(nn.Linear(5, 4), TailDropout())
    result = scree(model, "1", regression(5), lambda output, target: -output.square().sum(1).log())
    assert result.loss[0] == math.inf
    assert result.loss[1:].isfinite().all()
    assert result.stderr[1:].isfinite().all()
    assert Scree.from_json(result.to_json()).loss[0] == math.inf
    assert result.choose() >= 1
    with pytest.raises(ValueError, match="finite"):
        result.choose(method="elbow")


def test_a_network_that_depends_on_the_batch_later_is_computed_at_one_width() -> None:
    def compose(net: Any, x: Tensor) -> Tensor:
        z = net.drop(net.encode(x))
        return net.decode(z.sin() if len(x) == 7 else z + x.sum(1, keepdim=True))

    model, batches = Custom(compose), regression(5)
    result = scree(model, "drop", batches, per_element)
    assert "in a later batch, copies along dim 0 do not work (RuntimeError" in result.method
    torch.testing.assert_close(result.loss, loop(model, "drop", batches, per_element, range(13)), rtol=1e-12, atol=0)


def test_a_random_network_is_not_given_again() -> None:
    model = nn.Sequential(nn.Linear(5, 12), TailDropout(), nn.Linear(12, 3))
    model[0].register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    result = scree(model, "1", regression(5), per_element)
    assert "one width at a time, all of the model each time" in result.method


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_sums_are_as_exact_as_the_linear(dtype: torch.dtype) -> None:
    n = 4000
    model = nn.Sequential(TailDropout(), nn.Linear(n, 4)).to(dtype)
    x = torch.randn(50, n).to(dtype)
    outputs: dict[int, Tensor] = {}

    def keep(output: Tensor, target: Tensor) -> Tensor:
        outputs[len(outputs)] = output.double()
        return output.square().mean(1)

    result = scree(model, "0", [(x, x)], keep)
    assert result.method == "running sums along dim 0"
    for k in (1, 300, 3999, 4000):
        exact = nn.functional.linear(x.double()[:, :k], model[1].weight.double()[:, :k], model[1].bias.double())
        with at_k(model.eval(), k), torch.no_grad():
            theirs = (model(x).double() - exact).abs().max()
        ours = (outputs[k] - exact).abs().max()
        assert ours <= theirs + torch.finfo(torch.float32).eps, k


def test_rows_are_counted_along_the_dim_of_the_copies() -> None:
    model = Recurrent(1)
    rows = []
    model.second.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
    scree(model, "drop", regression(6, 3, out=(6, 3), dim=1, sizes=(7, 7)), per_element, max_rows=30)
    assert rows[-3:] == [28, 28, 7]


def test_running_sums_count_what_the_linear_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    monkeypatch.setattr(taildropout.widths.replay, "_ELEMENTS_CPU", 3 * 7 * 5)
    model = nn.Sequential(TailDropout(), nn.Linear(12, 3), nn.Tanh())
    model[2].register_forward_hook(lambda module, args, output: rows.append(len(output)))
    scree(model, "0", regression(12, sizes=(7, 7)), per_element)
    assert rows[-3:] == [35, 35, 21]


def test_a_layer_that_a_later_batch_does_not_call_makes_no_difference_there() -> None:
    model = Custom(lambda net, x: net.decode((net.drop(net.encode(x)) if len(x) == 7 else net.encode(x)).sin()))
    batches = regression(5, sizes=(7, 26))  # 26 rows can be taken for two of each of 13 widths
    result = scree(model, "drop", batches, per_element)
    torch.testing.assert_close(result.loss, loop(model, "drop", batches, per_element, range(13)), rtol=1e-12, atol=0)
