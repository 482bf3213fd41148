"""Recurrent cells in a loop over time: a slice where the layer follows the cell, else a PruningError that says what to do."""

import pytest
import torch
from package.pruning.pruned import Wired, checked, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, frontier, prune
from taildropout.pruning import graph

KINDS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner on a graph in which the number of features grows without end: in several of these it does."""
    monkeypatch.setattr(graph, "_MOST_INDICES", 10_000)


def unrolled(m: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = m.cell(step, state)
    return m.out(m.drop(state[0] if isinstance(state, tuple) else state))


def after(kind: type[nn.Module]) -> nn.Module:
    return Wired(unrolled, cell=kind(4, 12), drop=TailDropout(), out=nn.Linear(12, 3)).double()


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_cell_the_layer_slices(kind: type[nn.Module], steps: int) -> None:
    with pytest.warns(UserWarning, match=rf"'cell' \({kind.__name__}\) mixes features$"):
        smaller = checked(after(kind), "drop", 4, x(8, steps, 4))
    assert smaller.out.in_features == 4


def test_frontier_after_a_cell() -> None:
    batches = [(x(8, 5, 4), torch.arange(8) % 3)] * 2
    found = frontier(after(nn.GRUCell), batches, nn.CrossEntropyLoss(), batches[0][0], progress=False)
    assert len(found.points) >= 1


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_before_a_cell_the_layer_is_refused(steps: int) -> None:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = m.cell(m.drop(m.a(step).relu()), state)
        return state

    model = Wired(wiring, a=nn.Linear(4, 12), drop=TailDropout(), cell=nn.GRUCell(12, 6)).double()
    with pytest.raises(PruningError, match="GRUCell"):
        prune(model, "drop", 4, x(8, steps, 4))
