"""The examples at their small size: they run, write what they say, and their parts are right. And the data behind them."""

import gzip
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from figures import small_figures
from torch import nn

from taildropout import TailDropout

pytest.importorskip("matplotlib", reason="the examples need matplotlib: pip install 'taildropout[examples]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'taildropout[examples]'")

__all__ = ["small_figures"]  # a fixture

EXAMPLES = Path(__file__).parents[2] / "examples"
ON_FASHION = ["autoencoder", "classifier", "overfit", "rates"]
ON_FASHION += ["experiments.activation_variance", "experiments.fashion_mlp", "experiments.feedforward"]
NAMES = ["masks", "pca", "width", "experiments.moons", *ON_FASHION]


def load(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


def need_fashion_mnist() -> None:
    if "FASHION_MNIST" not in os.environ and not load("common.data").DEBIAN.is_dir():
        pytest.skip("Fashion-MNIST is not here: install the Debian package dataset-fashion-mnist, or set FASHION_MNIST")


@pytest.mark.usefixtures("small_figures")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("experiments.") else name for name in NAMES]
)
def test_an_example_writes_its_figure_and_a_json_of_settings_versions_and_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pca":  # trains six networks
        monkeypatch.setitem(load(name).SETTINGS["quick"], "steps", 20)
    if name in ON_FASHION:
        need_fashion_mnist()
    returned = load(name).main(["--quick", "--out", str(tmp_path)])
    name = name.rpartition(".")[2]
    written = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert written == json.loads(json.dumps(returned))
    assert written["size"] == "quick"
    assert "seed" in written["settings"]
    assert written["versions"]["torch"] == version("torch")
    assert written["results"]
    assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figures" / "autoencoder.gif").exists() == (name == "autoencoder")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_comes_from_the_settings_of_today(name: str) -> None:
    settings, name = load(name).SETTINGS["default"], name.rpartition(".")[2]
    written = json.loads((EXAMPLES / "results" / f"{name}.json").read_text())
    assert written["example"] == name
    assert written["size"] == "default"
    assert written["settings"] == settings
    assert (EXAMPLES / "figures" / f"{name}.png").exists()


def test_the_claims_about_pca_hold_in_what_is_committed() -> None:
    for found in json.loads((EXAMPLES / "results" / "pca.json").read_text())["results"].values():
        curves = {name: torch.tensor(curve) for name, curve in found["variance_left_at_every_width"].items()}
        assert (curves["TailDropout"] <= 1.02 * curves["PCA"]).all()
        assert torch.tensor(found["cosine_of_every_direction"]["TailDropout"][:10]).mean() >= 0.98
        assert all(found["goals"].values())


def test_pca_itself_is_judged_to_be_pca() -> None:
    pca = load("pca")
    inputs = pca.gaussian(0)
    directions = torch.linalg.svd(inputs.double(), full_matrices=False)[2][:16]
    model = nn.Sequential(nn.Linear(32, 16, bias=False), nn.Identity(), nn.Linear(16, 32, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(3 * directions)
        model[2].weight.copy_(directions.T / 3)
    found = pca.judge(model, inputs, 16)
    torch.testing.assert_close(found["left"], found["pca"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["cosine"], torch.ones(16).double(), rtol=0, atol=1e-5)
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.flip(0))
        model[2].weight.copy_(model[2].weight.flip(1))
    wrong_way = pca.judge(model, inputs, 16)
    assert wrong_way["left"][1] > 1.3 * wrong_way["pca"][1]
    assert wrong_way["cosine"].max() < 1e-5


def test_taildropout_comes_nearer_to_pca_than_other_layers_in_a_short_training() -> None:
    pca = load("pca")
    inputs = pca.gaussian(0)
    cosine = {}
    for name, make in pca.LAYERS.items():
        torch.manual_seed(0)
        cosine[name] = pca.judge(pca.train(inputs, make(0.6), 4, 600, 0.05, name), inputs, 4)["cosine"].mean()
    assert cosine["TailDropout"] > 0.98
    assert max(cosine["nn.Dropout"], cosine["no dropout"]) < 0.9


def test_the_matryoshka_loss_is_the_sum_over_nested_widths() -> None:
    classifier = load("classifier")
    inputs, labels = torch.randn(5, 784).double(), torch.randint(10, (5,))
    for kind, n in [("mlp", 12), ("cnn", 6)]:
        make, dim = classifier.KINDS[kind]
        layer = TailDropout(dropout_dim=dim).eval()
        model = make(layer, n).double()
        total = torch.zeros(())
        for width in classifier.widths_of(n):
            layer.set_k(width)
            total = total + nn.functional.cross_entropy(model(inputs), labels)
        layer.set_k(None)
        torch.testing.assert_close(classifier.nested_loss(model, inputs, labels, n), total)
        assert classifier.widths_of(n)[-1] == n


def test_svd_at_full_rank_is_the_network_and_at_rank_0_its_bias() -> None:
    width = load("width")
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), TailDropout(), nn.Linear(9, 3)).eval()
    x, y = torch.randn(40, 6), torch.randn(40, 3)
    with torch.no_grad():
        losses = width.svd_losses(model, 3, (x, y))
        assert len(losses) == 4
        assert losses[-1] == pytest.approx(nn.functional.mse_loss(model(x), y).item(), rel=1e-5)
        assert losses[0] == pytest.approx((model[3].bias - y).square().mean().item(), rel=1e-5)


def test_the_shift_of_the_mean_is_that_of_many_draws() -> None:
    """P(false alarm) below 1e-6: each mean of 20 000 rows is within 6 of its standard errors, 10 outputs."""
    need_fashion_mnist()
    rates = load("rates")
    settings = rates.Study("rates", "", rates.SETTINGS, ["--quick"]).settings
    model = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), TailDropout(0.5), nn.Linear(16, 10))
    row = torch.rand(1, 784)
    data = load("common.data").Data(row, torch.tensor([3]), torch.cat([row, row / 2]), torch.tensor([3, 4]))
    shift = rates.measure(model, 0.5, data, (row, torch.tensor([3])), settings)[rates.MEASURES.index("shift")]
    many = torch.cat([row, row / 2]).repeat(10_000, 1)
    with torch.no_grad():
        drawn = model.train()(many)
        output = model.eval()(data.test_inputs)
    spread = (output - output.mean(0)).square().sum(1).mean().sqrt()
    error = 6 * (drawn.var(0).sum() / len(many)).sqrt() / spread
    assert shift == pytest.approx(((drawn.mean(0) - output.mean(0)).norm() / spread).item(), abs=error.item())


def test_a_part_of_a_run_is_computed_once(tmp_path: Path) -> None:
    study = load("common.study")
    settings = {"default": {"seed": 3, "steps": 1}}
    calls = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"drawn": torch.rand(2)}

    def run(*argv: str, **changed: int) -> torch.Tensor:
        given = {"default": settings["default"] | changed}
        whole = study.Study(str(EXAMPLES / "pca.py"), "", given, [*argv, "--out", str(tmp_path)])
        torch.rand(len(calls))  # parts before this one, computed or loaded
        return whole.stored("part", compute)["drawn"]

    first = run()
    assert torch.equal(run(), first)
    assert len(calls) == 1
    run(steps=2)
    assert len(calls) == 2, "other settings are another result"
    assert torch.equal(run("--quick"), first), "the seed alone decides"
    assert len(calls) == 3, "--quick stores nothing"


def test_a_part_is_computed_again_if_a_file_that_it_uses_has_changed(tmp_path: Path) -> None:
    study = load("common.study")
    used, calls = tmp_path / "used.py", []
    for text in ("first", "first", "second"):
        used.write_text(text)
        whole = study.Study(str(EXAMPLES / "pca.py"), "", {"default": {"seed": 3}}, ["--out", str(tmp_path)], [str(used)])
        whole.stored("part", lambda text=text: calls.append(text))
    assert calls == ["first", "second"]


def test_median_times_are_of_every_call() -> None:
    calls = {"a": 0, "b": 0}

    def call(name: str) -> None:
        calls[name] += 1

    times = load("common.study").median_times({name: lambda name=name: call(name) for name in calls}, 5)
    assert calls == {"a": 8, "b": 8}
    assert all(time > 0 for time in times.values())


@pytest.mark.parametrize("rise", [0.1, 0.2])
def test_the_learning_rate_is_a_number_for_every_number_of_steps(rise: float) -> None:
    """A run has as many steps as measured times allow."""
    for steps in range(1, 13):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = load("common.study").one_cycle(optimizer, 1.0, steps, rise)
        rates = []
        for _ in range(steps):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert all(0 < rate <= 1 for rate in rates)


def idx_files(folder: Path, shapes: dict[str, tuple[int, ...]], packed: bool) -> dict[str, str]:
    """Files of random bytes in the form of Fashion-MNIST's, and their SHA-256 behind the header."""
    sums = {}
    for name, shape in shapes.items():
        content = np.random.default_rng(0).integers(0, 10, shape, dtype=np.uint8).tobytes()
        sums[name] = hashlib.sha256(content).hexdigest()
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        path = folder / (name + ".gz" * packed)
        path.write_bytes(gzip.compress(header + content) if packed else header + content)
    return sums


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_from_a_folder_and_checked(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load("common.data")
    monkeypatch.setattr(data, "SHAPES", {name: (20, *shape[1:]) for name, shape in data.SHAPES.items()})
    monkeypatch.setattr(data, "SHA256", idx_files(tmp_path, data.SHAPES, packed))
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    found = data.fashion_mnist.__wrapped__()
    assert found.inputs.shape == found.test_inputs.shape == (20, 784)
    assert found.labels.dtype == torch.int64
    assert found.inputs.max() <= 9 / 255

    damaged = next(tmp_path.glob("t10k-labels*"))
    content = gzip.decompress(damaged.read_bytes()) if packed else damaged.read_bytes()
    changed = content[:-1] + bytes([content[-1] ^ 1])
    damaged.write_bytes(gzip.compress(changed) if packed else changed)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte .* has SHA-256"):
        data.fashion_mnist.__wrapped__()
    damaged.write_bytes(gzip.compress(content[:-1]) if packed else content[:-1])
    with pytest.raises(ValueError, match="27 bytes, not 28"):
        data.fashion_mnist.__wrapped__()
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        data.fashion_mnist.__wrapped__()


def test_fashion_mnist_comes_from_openml_where_no_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_fashion_mnist()
    data = load("common.data")
    here = data.fashion_mnist()
    folder = os.environ.get("FASHION_MNIST", str(data.DEBIAN))
    arrays = list(data._from_folder(Path(folder)).values())

    class Bunch:
        data = np.concatenate([arrays[0], arrays[2]]).reshape(-1, 784).astype(np.int64)
        target = np.concatenate([arrays[1], arrays[3]]).astype(str)

    monkeypatch.delenv("FASHION_MNIST", raising=False)
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(data, "fetch_openml", lambda *args, **kwargs: Bunch)
    assert all(torch.equal(a, b) for a, b in zip(data.fashion_mnist.__wrapped__(), here, strict=True))

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(data, "fetch_openml", no_network)
    with pytest.raises(FileNotFoundError, match=r"no network.*set FASHION_MNIST"):
        data.fashion_mnist.__wrapped__()


def kinds(cell: dict[str, Any]) -> list[str]:
    """The kinds of a cell's outputs; text may come in one piece or in several."""
    return [kind for kind, _ in itertools.groupby(output["output_type"] for output in cell.get("outputs", []))]


@pytest.mark.slow
def test_the_tour_runs_as_stored(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert", reason="the notebook needs nbconvert and ipykernel: pip install 'taildropout[examples]'")
    copy = tmp_path / "tour.ipynb"
    changed = json.loads((EXAMPLES / "tour.ipynb").read_text())
    for cell in changed["cells"]:
        cell |= {"outputs": []} if cell["cell_type"] == "code" else {}
    check = {"source": ["assert accuracy(loaded) == accuracy(smaller) > 0.9"], "outputs": [], "execution_count": None}
    changed["cells"].append({"cell_type": "code", "metadata": {}} | check)
    copy.write_text(json.dumps(changed))
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(copy)]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(path.read_text())["cells"] for path in (EXAMPLES / "tour.ipynb", copy))
    assert [kinds(cell) for cell in after[:-1]] == [kinds(cell) for cell in before], "run the notebook anew: make examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks", "width"])
def test_an_example_is_one_command(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.{name}", "--out", tmp_path],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{name}.png" in done.stdout
    assert (tmp_path / "results" / f"{name}.json").exists()
