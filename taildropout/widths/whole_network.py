"""`frontier`: a width for each layer of a trained network, at many sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from ..models import at_k
from ..names import named
from .arguments import check_limit, find_layers
from .calling import Call, Caller, Loss, check_batches
from .costs import Cost, check_cost, cost_function
from .descent import Search
from .losses import RunningMean, stack_losses
from .measuring import evaluation_mode
from .progress import track
from .sizes import Frontier, Size
from .what import direction_of, name_of


def frontier(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    example_inputs: Any = None,
    *,
    cost: Cost = "parameters",
    layers: Sequence[TailDropout | str] | TailDropout | str | None = None,
    held_out: Iterable[Any] | None = None,
    sizes: int = 20,
    max_forwards: int = 200,
    max_batches: int | None = None,
    call: Call | None = None,
    device: torch.device | str | None = None,
    maximize: bool | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Frontier:
    """Find the best width for each layer of a model, at many sizes from full width down to one feature a layer.

    The search evaluates widths exactly, by forwards over the batches. At each cost it shrinks each layer alone, from the best
    widths at the cost before, and measures how much the loss rises. Features are ordered by importance, so the loss rises
    faster than the cost saved: as a power of the cost saved. The widths at which the sum of these powers over all layers is
    least are evaluated too, and the search continues from the best widths. So the search needs an evaluation for each layer and
    size. (A greedy search, which shrinks one layer by a small step at a time, needs one for each layer and step.) The rest of
    `max_forwards` is spent on exchanges, in which one layer grows and another shrinks. If `max_forwards` allows all choices of
    widths, all are evaluated. Costs lie denser towards small sizes, where the loss changes most.

    The more the features of the layers are ordered by importance, the closer the result comes to the best: on a small network
    trained with TailDropout, to within 1 %. The widths are chosen on one part of the batches and judged on another, since the
    loss by which widths are chosen is too good.

    Args:
        model: any module with TailDropouts. Its state is restored at the end, as by `scree`.
        batches: as for `scree`. All batches are kept in memory, since the search passes over them many times.
        loss: as for `scree`; the model's own loss if None.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments, as for `prune`; needed unless
            `cost` is callable.
        cost: "parameters"; or "macs", the multiply-accumulate operations of a forward on the example inputs; or a callable that
            gets a dict of widths by layer and returns a number, which must not rise when a width falls. Parameters and MACs are
            those of the network that `prune` returns, also where layers share features; the extra `prune` is needed.
        layers: the layers whose widths are chosen: one or several names, patterns as in `fnmatch`, or TailDropouts; all if
            None. Other layers keep their k, or all features if no k is set.
        held_out: the batches on which the sizes are judged; if None, every second one of `batches` (a single batch is used for
            the search and for judging, and `Frontier.method` says so).
        sizes: how many sizes to find; fewer are returned if fewer are better than all cheaper ones.
        max_forwards: about how many passes over its batches the search may make. With fewer than (number of layers + 2) *
            `sizes`, not every layer is shrunk alone at every size, which is less exact.
        max_batches: the most batches to use of `batches`, and of `held_out`; all if None.
        call: as for `scree`.
        device: as for `scree`.
        maximize: True if more is better, as for an accuracy. Not needed for torch's losses and the model's own loss.
        name: what is measured, for plots; by default the name of the loss.
        progress: show a progress bar on a terminal or in a notebook, if tqdm or rich is installed.

    Returns:
        A `Frontier`, whose `choose` gives widths for `prune`.

    Raises:
        KeyError: if a name or pattern matches no TailDropout.
        TypeError: as `scree`; or if example inputs are missing, or `cost` returns no number.
        ValueError: as `scree`; or if the model has no TailDropout; if no sample of the search reaches a layer; if `cost`
            returns NaN or inf; or if the loss is greater at full width than at one feature per layer, and `maximize` is needed.
        PruningError: if `cost` is not callable and `prune` cannot cut the layers to any widths, each on its own.
        ImportError: if `cost` is not callable and torch-pruning is missing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 6), nn.ReLU(), TailDropout(), nn.Linear(6, 1))
        >>> batches = [(torch.randn(16, 4), torch.randn(16, 1)) for _ in range(4)]
        >>> curve = frontier(model, batches, nn.MSELoss(), cost=lambda widths: sum(widths.values()))
        >>> sorted(curve.choose(cost=0.5))
        ['1', '4']
    """
    if layers is None:
        named(model, TailDropout, None)  # raises an error if there is none
    found = find_layers(model, ["*"] if layers is None else [layers] if isinstance(layers, str | nn.Module) else layers)
    check_batches(batches)
    check_limit("sizes", sizes, "sizes", optional=False)
    check_limit("max_forwards", max_forwards, "forwards", optional=False)
    check_limit("max_batches", max_batches, "batches")
    if not isinstance(maximize, bool | None):
        raise TypeError(f"maximize={maximize!r} has type {type(maximize).__name__}; give True, False or None")
    caller = Caller(model, loss, call, device)
    searched, judged, how = _split(batches, held_out, max_batches)
    with evaluation_mode(model):
        full = _full_widths(caller, found, searched)
        cost_of = cost_function(cost, model, full, example_inputs)
        names = list(full)
        costs: dict[tuple[int, ...], float] = {}

        def cost_at(widths: tuple[int, ...]) -> float:
            if widths not in costs:
                costs[widths] = check_cost(cost_of(dict(zip(names, widths, strict=True))))
            return costs[widths]

        def loss_at(widths: tuple[int, ...]) -> float:
            return sign * _mean(caller, dict(zip(names, widths, strict=True)), searched)[0]

        most, least = tuple(full.values()), (1,) * len(full)
        more_is_better = direction_of(loss) if maximize is None else maximize
        sign = -1 if more_is_better else 1
        search = Search(most, cost_at, loss_at, max_forwards)
        if more_is_better is None and search.loss(most) > search.loss(least):
            raise ValueError(
                f"the value at full width, {search.loss(most):.4g}, is greater than that at one feature a layer, "
                f"{search.loss(least):.4g}, and nobody said whether more is better; give maximize=True for a metric such as an "
                "accuracy, maximize=False for a loss"
            )
        if cost_at(most) < cost_at(least):
            raise ValueError(
                f"the cost is {cost_at(most):.6g} at full width and more at one feature a layer, {cost_at(least):.6g}; "
                "give a cost that falls when widths fall"
            )
        judged_sizes: dict[tuple[int, ...], Size] = {}
        chosen = search.sizes(_targets(cost_at(least), cost_at(most), sizes), partial(_track, progress, sizes))
        for widths in dict.fromkeys([*chosen, most]):
            by_name = dict(zip(names, widths, strict=True))
            mean, stderr = _mean(caller, by_name, judged)
            judged_sizes[widths] = Size(by_name, cost_at(widths), mean, stderr, sign * search.known[widths])
    return Frontier(
        tuple(judged_sizes[widths] for widths in chosen),
        judged_sizes[most],
        cost if isinstance(cost, str) else getattr(cost, "__name__", "cost").replace("<lambda>", "cost"),
        bool(more_is_better),
        name_of(loss) if name is None else name,
        f"{len(search.known)} choices of widths evaluated on {len(searched)} batches, {how}",
        len(search.known),
    )


def _track(show: bool, total: int, targets: Iterable[float]) -> Iterable[float]:
    return track(targets, "frontier", show, total)


def _targets(least: float, most: float, sizes: int) -> list[float]:
    """Return `sizes` costs from `most` down to `least`, whose distances from `least` fall as squares."""
    return [most, *(least + (most - least) * (1 - step / (sizes - 1)) ** 2 for step in range(1, sizes))]


def _split(batches: Iterable[Any], held_out: Iterable[Any] | None, max_batches: int | None) -> tuple[list[Any], list[Any], str]:
    """Return the batches of the search, the batches on which sizes are judged, and a description of the second.

    Raises:
        ValueError: if there is no batch.
    """
    every = list(islice(batches, max_batches))
    if not every:
        raise ValueError("batches is empty, or an iterator that is used up; give at least one batch, (input, target) say")
    if held_out is not None:
        check_batches(held_out)
        judged = list(islice(held_out, max_batches))
        if not judged:
            raise ValueError("held_out is empty, or an iterator that is used up; give at least one batch, or None")
        return every, judged, f"judged on {len(judged)} others"
    if len(every) == 1:
        return every, every, "judged on the same one, so the losses are too good"
    return every[::2], every[1::2], f"judged on {len(every[1::2])} others"


def _full_widths(caller: Caller, layers: Mapping[str, TailDropout], batches: Sequence[Any]) -> dict[str, int]:
    """Return the number of features of each layer by name, found by running the model until batches have reached each layer.

    Raises:
        ValueError: if the model does not call a layer on any sample, so that no loss depends on the layer's width.
    """
    features: dict[str, int] = {}

    def record(name: str, module: TailDropout, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.numel():
            features[name] = output.shape[module.dropout_dim]

    handles = [layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()]
    try:
        with at_k(caller.model, None, list(layers)):
            for number, batch in enumerate(batches, 1):
                example = caller.read(batch, number)
                caller.run(example.input, example.keywords)
                if len(features) == len(layers):
                    break
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in layers if name not in features]:
        raise ValueError(
            f"{', '.join(map(repr, missing))} was not called on any sample of the search, which has every second batch unless "
            "held_out is given; give batches that reach it (all experts of a mixture, for instance), or other layers"
        )
    return {name: features[name] for name in layers}


def _mean(caller: Caller, widths: Mapping[str, int], batches: Sequence[Any]) -> tuple[float, float]:
    """Return the mean loss of the batches at these widths, and its standard error."""
    mean = RunningMean()
    with at_k(caller.model, dict(widths)):
        for number, batch in enumerate(batches, 1):
            example = caller.read(batch, number)
            loss = caller.loss_of(caller.run(example.input, example.keywords), example.target)
            mean.add(stack_losses([loss], [f"widths {dict(widths)}"], number), example.weight)
    value, stderr = mean.result()
    return float(value), float(stderr)
