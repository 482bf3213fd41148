"""The faults found in the original package, a test each. Where it is cheap, the faulty way is written anew and must fail."""

import inspect
import json
import math
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import oracles
import pytest
import torch
from torch import Tensor, nn

from taildropout import CensoredGeometric, TailDropout, at_k, get_scale_param, rate
from taildropout.fixed_k import FixedK

ROOT = Path(__file__).parents[2]


def drawn(layer: TailDropout, samples: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return oracles.widths(layer(torch.ones(samples, n, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_1_draws_do_not_depend_on_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    narrow = drawn(TailDropout(0.5), 20_000, 1024, dtype)
    torch.manual_seed(1)
    assert torch.equal(narrow, drawn(TailDropout(0.5), 20_000, 1024))
    assert narrow.unique().numel() > 1000
    assert oracles.original_k(0.5, 1024, 20_000, torch.bfloat16).unique().numel() < 400  # what is guarded against


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_1_nor_do_compiled_ones(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(TailDropout(0.5), fullgraph=True, backend="aot_eager")  # inductor would not round in between
    assert oracles.widths(compiled(torch.ones(20_000, 1024, dtype=dtype))).unique().numel() > 1000


def test_1_all_of_many_features_can_stay_in_float16() -> None:
    widths = drawn(TailDropout(0.001), 64, 70_000, torch.float16)
    assert (widths == 70_000).sum() > 50


@pytest.mark.parametrize(("n", "faulty"), [(1, 0.797), (2, 0.673), (10, 0.539), (64, 0.506)])
def test_2_the_mean_drop_is_p_for_few_features_too(n: int, faulty: float) -> None:
    assert oracles.mean_kept(rate(0.5, n), n) == pytest.approx(0.5, abs=1e-12)
    assert 1 - oracles.mean_kept(oracles.original_rate(0.5, n), n) == pytest.approx(faulty, abs=5e-4)


@pytest.mark.parametrize("p", [1e-300, 1e-8, 1e-4, 1 - 2**-53])
def test_3_the_search_for_the_rate_ends(p: float) -> None:
    scale = get_scale_param(p)
    if p >= 1e-8:  # where float64 can tell 1 − p from 1
        assert -scale * math.expm1(-1 / scale) == pytest.approx(1 - p, rel=1e-12)
    assert rate(p, 10) > 0


def test_4_set_k_neither_breaks_the_graph_nor_keeps_it_from_export() -> None:
    layer = TailDropout()
    layer.set_k(2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert oracles.widths(compiled(torch.ones(3, 5))).tolist() == [2, 2, 2]
    exported = torch.export.export(layer, (torch.ones(3, 5),)).module()
    assert oracles.widths(exported(torch.ones(3, 5))).tolist() == [2, 2, 2]
    source = "".join(map(inspect.getsource, (TailDropout.forward, TailDropout.k_for, FixedK.spread)))
    assert not re.search(r"\.item\(|\.tolist\(|int\(|bool\(", source)  # nothing that waits for a GPU


def test_5_dims_are_normalised_before_they_are_compared() -> None:
    with pytest.raises(ValueError, match="overlap"):
        TailDropout()(torch.ones(8))
    with pytest.raises(ValueError, match="overlap") as caught:
        TailDropout(batch_dim=[0, 2], dropout_dim=-1)(torch.ones(2, 3, 4))
    assert str(caught.value).count("batch_dim=[0, 2]") == 1
    assert "dropout_dim=-1" in str(caught.value)


def test_6_k_is_no_part_of_the_state_and_old_checkpoints_load() -> None:
    layer = TailDropout()
    layer.set_k(3)
    assert layer.state_dict() == {}
    model = nn.Sequential(nn.Linear(4, 4), TailDropout())
    model.load_state_dict(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).state_dict(), strict=True)
    old = {**nn.Linear(4, 4).state_dict(prefix="0."), "1.k": torch.tensor(3)}
    model.load_state_dict(old, strict=True)
    assert model[1].k is None
    assert "1.k" in old


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_7_the_warning_names_k(mode: str) -> None:
    layer = TailDropout()
    layer.set_k(3)
    with pytest.warns(UserWarning, match=rf"{mode}\(\) forgets k=3"):
        getattr(layer, mode)()
    assert layer.k is None


@pytest.mark.parametrize(("k", "error"), [(-1, ValueError), (2.7, TypeError), (True, TypeError), ("3", TypeError)])
def test_8_a_k_that_means_nothing_is_refused(k: object, error: type[Exception]) -> None:
    layer = TailDropout()
    layer.set_k(2)
    with pytest.raises(error, match=re.escape(f"k={k!r}")):
        layer.set_k(k)
    assert layer.k.item() == 2


def test_9_the_layer_is_pickled() -> None:
    layer = TailDropout(0.25, [0, 1], 2)
    twin = pickle.loads(pickle.dumps(layer))
    assert repr(twin) == repr(layer)
    assert twin(torch.ones(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("shape", [(4, 8), (300, 100)], ids=["small", "large"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_10_nothing_of_the_tail_is_left(bad: float, shape: tuple[int, int]) -> None:
    for p, k in [(0.5, 3), (1.0, 0)]:
        input = torch.ones(shape)
        input[:, k:] = bad
        input.requires_grad_()
        layer = TailDropout(p)
        if p < 1:
            layer.set_k(k)
        output = layer(input)
        assert (output[:, k:] == 0).all()
        (grad,) = torch.autograd.grad(output, input, torch.full(shape, 2.0))
        assert (grad[:, :k] == 2).all()
        assert (grad[:, k:] == 0).all()
        assert not (input.detach() * (torch.arange(shape[1]) < k))[:, k:].isfinite().any()  # what multiplying would leave


def test_11_no_mask_is_kept_for_backward() -> None:
    kept: list[Tensor] = []
    input = torch.randn(1024, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        TailDropout()(input)
    assert 0 < sum(tensor.numel() * tensor.element_size() for tensor in kept) <= 16 * 1024


def test_12_speed_is_measured_and_what_is_not_says_so() -> None:
    from benchmarks.suite.cases import CASES

    assert {case.direction for case in CASES.values()} >= {"fwd", "train", "eval", "set_k"}
    assert any(case.model == "data_parallel" for case in CASES.values())
    readme = (ROOT / "README.md").read_text()
    records = [json.loads(file.read_text()) for file in (ROOT / "benchmarks" / "records").glob("*.json")]
    assert ("CUDA: not measured" in readme) is not any("gpu" in record["machine"] for record in records)


def test_13_the_readme_looks_at_full_width_too() -> None:
    code = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code += "print(*result.widths)\nprint(smaller[0].out_features)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    widths, features = done.stdout.splitlines()
    assert widths.split() == [str(k) for k in range(257)]
    assert 1 <= int(features) <= 256


def test_14_the_distribution_holds_the_package() -> None:
    from importlib.metadata import files, version

    import taildropout

    assert version("taildropout") == taildropout.__version__
    installed = {str(file) for file in files("taildropout") or ()}
    editable = any(name.endswith(".pth") or "__editable__" in name for name in installed)
    assert editable or {"taildropout/__init__.py", "taildropout/py.typed", "taildropout/layer.py"} <= installed


def test_what_users_rely_on_is_as_it_was() -> None:
    """The signature; lists as batch_dim; set_k(None); train and eval forget; no rescaling; a new k compiles nothing."""
    layer = TailDropout(0.5, [0], -1)
    assert list(inspect.signature(TailDropout).parameters)[:3] == ["p", "batch_dim", "dropout_dim"]
    graphs = []
    compiled = torch.compile(layer, backend=lambda graph, _: graphs.append(graph) or graph)
    for k in range(5):
        layer.set_k(k)
        assert oracles.widths(compiled(torch.ones(3, 5))).tolist() == [k] * 3
    assert len(graphs) == 1
    layer.set_k(None)
    layer.set_p(0.0)
    input = torch.randn(3, 5)
    assert torch.equal(layer(input), input)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()
    with at_k(layer, 1):
        assert torch.equal(layer(input)[:, :1], input[:, :1])
    assert CensoredGeometric(0.5, 1).log_prob(torch.tensor(0.0)).exp().item() == pytest.approx(0.5)  # K = 0 occurs
