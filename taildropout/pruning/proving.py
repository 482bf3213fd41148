"""Prove a plan: check that the network that is cut by it computes the same as the network at its widths."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .cut import PruningError
from .cutting import Constants, Plan, cut_down
from .probing import RUNS, Probes, Seen, mixing
from .verification import Inputs, Trials, difference, rounding, run, set_widths, sizes_given


def prove(trials: Trials, plan: Plan) -> dict[str, Tensor]:
    """Check that cutting by `plan` changes no output in any trial, and return the constants to add to biases, by module.

    Beside the given inputs, each trial has probes, which replace the features at the layers by made-up ones. The constants are
    those of the network's own weights.

    Raises:
        PruningError: if an output changes, or no module before a layer is cut.
        Exception: whatever the network raises if it was cut wrongly.
    """
    own: dict[str, Tensor] | None = None
    probes = Probes(plan.kept())
    for trial, (network, inputs) in enumerate(trials):
        set_widths(network, plan.widths)
        constants = Constants(network, plan.cuts)
        with constants.recording(), probes.observing(network):
            theirs = run(network, inputs)
        probed = [_probed(probes, network, inputs, number) for number in range(RUNS * trial, RUNS * (trial + 1))]
        added = constants.added()
        own = added if own is None else own
        eps = rounding(network, inputs)
        cut_down(network, plan, added)
        sizes: dict[str, int] = {}
        with sizes_given(network, plan.widths, sizes):
            ours = run(network, inputs)
        if any(size > plan.widths[name] for name, size in sizes.items()):
            raise PruningError("no module that makes the features can be cut")
        found = difference(theirs, ours, eps)
        for number, seen in enumerate(probed, RUNS * trial):
            if seen is not None:
                again = probes.run(network, number, partial(run, inputs=inputs))
                if different := difference(seen.outputs, again.outputs, eps) or _other_decision(seen, again, eps):
                    mixed = mixing(seen, again)
                    raise PruningError(f"{different} ({mixed})" if mixed else different)
        if found:
            raise PruningError(found)
        del network, constants, theirs, ours, probed  # or the next trial would begin while this one is still in memory
    return own or {}


def _probed(probes: Probes, network: nn.Module, inputs: Inputs, number: int) -> Seen | None:
    """Return what a probe of the network at its widths sees; None if the network does not take the made-up features."""
    try:
        return probes.run(network, number, partial(run, inputs=inputs))
    except Exception:  # of any type: a network may refuse values, by an assertion for instance
        return None


def _other_decision(theirs: Seen, ours: Seen, eps: float) -> str | None:
    """Describe the first decision that is taken on other numbers; return None if there is none.

    Numbers of other shapes, one for each feature for instance, are not compared; nor is anything after the first decision that
    only one network takes.
    """
    for (name, before), (other, after) in zip(theirs.decisions, ours.decisions, strict=False):
        if name != other:
            return None
        for a, b in zip(before, after, strict=False):
            if a.shape == b.shape and (found := difference([a], [b], eps)):
                return f"{name!r} decides by other numbers, {found.replace('output', 'operand', 1)}"
    return None
