"""The tracked quality: repeatable, good for the layer as it is, and bad for one that is broken."""

import types

import pytest
import torch
from torch import Tensor, nn

import taildropout
from benchmarks.suite import quality
from benchmarks.suite.cases import NotAvailable, WrongResult
from taildropout import TailDropout, keep_first
from taildropout.baselines import LearnedDropout

TRACKS = [name for name in dir(quality.Quality) if name.startswith("track_")]


@pytest.fixture(autouse=True)
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SEEDS", (0,))


def tracked(name: str, monkeypatch: pytest.MonkeyPatch, package: object = taildropout) -> float:
    monkeypatch.setattr(quality, "package", lambda: package)
    return float(getattr(quality.Quality(), name)())


class Broken(nn.Module):
    """A TailDropout that keeps all in training, and in evaluation the k that is set."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.k = 10**6

    def set_k(self, k: int) -> None:
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return input if self.training else keep_first(input, self.k)


class WithoutPenalty(LearnedDropout):
    def penalty(self) -> Tensor:
        return super().penalty().detach()


class DropsAll(LearnedDropout):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 0


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("track_mlp_test_error", 0.09, 0.16),
        ("track_mlp_scree_area", 0.20, 0.29),
        ("track_pca_recovery_error", 0.0, 0.05),
        ("track_learned_dropout_ones", 0.25, 0.5),
    ],
)
def test_figures_are_about_what_their_docstrings_say(
    name: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert least <= tracked(name, monkeypatch) <= most


def test_a_figure_depends_on_no_random_number_drawn_before(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    for draws in (1, 2):
        torch.randn(draws)
        figures.append(tracked("track_mlp_scree_area", monkeypatch))
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("name", "package", "least"),
    [
        ("track_mlp_scree_area", types.SimpleNamespace(TailDropout=Broken), 0.35),
        ("track_mlp_test_error", types.SimpleNamespace(TailDropout=lambda p: TailDropout(0.9)), 0.2),
        ("track_pca_recovery_error", types.SimpleNamespace(TailDropout=Broken), 0.3),
        (
            "track_learned_dropout_ones",
            types.SimpleNamespace(baselines=types.SimpleNamespace(LearnedDropout=WithoutPenalty)),
            0.55,
        ),
    ],
)
def test_a_layer_that_breaks_learning_shows(name: str, package: object, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracked(name, monkeypatch, package) > least


def test_dropping_everything_is_no_good_share(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.SimpleNamespace(baselines=types.SimpleNamespace(LearnedDropout=DropsAll))
    with pytest.raises(WrongResult, match=r"leaves 1\.\d\d of the variance"):
        tracked("track_learned_dropout_ones", monkeypatch, package)


@pytest.mark.parametrize("name", TRACKS)
def test_a_version_that_lacks_it_is_not_available(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAvailable, match=r"old has no (TailDropout|baselines)"):
        tracked(name, monkeypatch, types.ModuleType("old"))


def test_every_figure_has_a_unit() -> None:
    assert all(getattr(quality.Quality, name).unit for name in TRACKS)
    assert len(TRACKS) == 4
