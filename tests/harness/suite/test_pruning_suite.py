"""The benchmark of prune."""

import types

import pytest
import torch

from benchmarks.suite import pruning as suite
from benchmarks.suite.cases import NotAvailable, WrongResult
from taildropout import TailDropout, load_pruned, prune


def use(monkeypatch: pytest.MonkeyPatch, **names: object) -> None:
    """Make the suite measure a package with these names."""
    package = types.ModuleType("other")
    vars(package).update(names)
    monkeypatch.setattr(suite, "package", lambda: package)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = suite.Network.__init__.__defaults__
    monkeypatch.setattr(suite.Network.__init__, "__defaults__", (30, 16, 16, 2, 2))
    assert defaults is not None
    assert len(defaults) == 5
    monkeypatch.setattr(suite, "VOCABULARY", 30)
    monkeypatch.setattr(suite, "KEPT", 4)


def test_the_benchmark_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    assert suite.Prune().track_time_of_all_blocks() > 0
    assert suite.Prune().track_memory_over_model() >= 0


def test_the_benchmark_checks_and_needs_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    use(monkeypatch, TailDropout=TailDropout)
    with pytest.raises(NotAvailable, match="other has no prune"):
        suite.pruned()
    use(monkeypatch, TailDropout=TailDropout, prune=prune)
    with pytest.raises(NotAvailable, match="other has no load_pruned"):
        suite.pruned()
    use(monkeypatch, TailDropout=TailDropout, prune=lambda model, *args: model.double().float(), load_pruned=load_pruned)
    monkeypatch.setattr(suite, "check", lambda *args: None)
    suite.pruned()
    monkeypatch.undo()
    small(monkeypatch)
    full = suite.Network(TailDropout)
    with pytest.raises(WrongResult, match="differs from the network"):
        suite.check(full, suite.Network(TailDropout), torch.randint(30, (2, 5)))


def test_without_torch_pruning_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="torch-pruning is not installed"):
        suite.pruned()
