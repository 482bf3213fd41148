"""Call a model with a batch, and compute the loss of its output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._torch import times_written
from ..trees import flatten, leaves_of
from .losses import FewClasses, check_loss
from .what import innermost, option_of

Loss = Callable[[Any, Any], Any]
Call = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Example:
    """A batch on the device, as the input of the model and the target of the loss."""

    input: Any
    target: Any
    weight: float  # of the batch's mean loss, in the mean over batches
    keywords: bool  # True if the input is a dict of keyword arguments


class Caller:
    """Call a model with batches, and compute the loss of its outputs; the arguments are those of `scree`."""

    def __init__(self, model: nn.Module, loss: Loss | None, call: Call | None, device: torch.device | str | None) -> None:
        if isinstance(loss, type):
            raise TypeError(f"loss is the class {loss.__name__}; give an instance of it: {loss.__name__}()")
        if loss is not None and not callable(loss):
            raise TypeError(f"loss has type {type(loss).__name__}; give a callable of output and target")
        if option_of(loss, "reduction") == "sum":
            raise ValueError("loss has reduction='sum', and batches may differ in size; give reduction='mean' or 'none'")
        if call is not None and not callable(call):
            raise TypeError(f"call has type {type(call).__name__}; give a callable of model and batch")
        self.model, self.loss, self.call = model, loss, call
        if device is None:
            # Offloaded weights are on "meta" whenever they are not in use.
            device = next((parameter.device for parameter in model.parameters() if not parameter.is_meta), None)
        self.device = device
        self._changes_input: bool | None = None  # known after the first forward

    def read(self, batch: Any, number: int) -> Example:
        """Check a batch, move it to the device, and return its input and target; `number` counts batches from 1, for messages.

        Raises:
            TypeError: if the batch is neither a pair nor a dict and `call` is None, or if the batch holds a NumPy array.
        """
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if self.call is None and not pair and not isinstance(batch, Mapping):
            raise TypeError(
                f"batch {number} has type {type(batch).__name__} and is not a pair; give batches of (input, target), or dicts "
                "of the model's arguments, or a function that calls the model: call=lambda model, batch: ..."
            )
        if any(type(leaf).__module__ == "numpy" and hasattr(leaf, "__array_interface__") for leaf in leaves_of(batch)):
            raise TypeError(f"batch {number} holds a NumPy array; give tensors: torch.from_numpy(array)")
        batch = self._moved(batch)
        target = batch[1] if pair else batch
        keywords = self.call is None and not pair
        input = dict(batch) if keywords else batch[0] if self.call is None else batch
        return Example(input, target, self._weight(batch, target), keywords)

    def _moved(self, batch: Any) -> Any:
        """Return a copy of a batch, of the same type, on the device."""
        # The attributes of a mapping may be its items.
        if self.device is not None and callable(getattr(type(batch) if isinstance(batch, Mapping) else batch, "to", None)):
            # A BatchEncoding of transformers moves in place, and the caller's shall stay where it is.
            return (batch if isinstance(batch, Tensor) else copy.copy(batch)).to(self.device)
        return _map_tensors(lambda tensor: tensor.to(self.device), batch)

    def run(self, input: Any, keywords: bool) -> Any:
        """Return the model's output for an input, which is left as it is: batches are used more than once.

        `keywords` is True if the input is a dict of keyword arguments. The first input is copied, and if the model changes the
        tensors of the copy, so is every later input. Containers are always copied, because a call may pop items from a dict.
        """
        copied = self._changes_input is not False
        input = _map_tensors(lambda tensor: tensor.clone() if copied else tensor, input)
        written = [] if not copied else [(leaf, times_written(leaf)) for leaf in leaves_of(input) if isinstance(leaf, Tensor)]
        if self.call is not None:
            output = self.call(self.model, input)
        else:
            output = self.model(**input) if keywords else self.model(input)
        if self._changes_input is None:
            self._changes_input = any(times_written(tensor) != times for tensor, times in written)
        return output

    def loss_of(self, output: Any, target: Any) -> Tensor:
        """Return the loss of an output, 0-d for a mean or 1-d with one element per sample.

        Raises:
            TypeError: if the loss is no number and no tensor of numbers.
            ValueError: if `loss` is None and the output has no loss.
        """
        if self.loss is None:
            return check_loss(_own_loss(output))
        with FewClasses() if isinstance(output, Tensor) and output.is_cpu else nullcontext():
            return check_loss(self.loss(output, target))

    def _weight(self, batch: Any, target: Any) -> float:
        """Return what the mean loss of the batch is a mean over: the number of elements of the target.

        A cross-entropy ignores some classes of the target, and may weight the others. A model's own loss ignores -100. The
        first tensor stands for the target where there is none, also as an attribute of a batch that is no container.
        """
        labels = batch.get("labels") if self.loss is None and isinstance(batch, Mapping) else target
        loss = innermost(self.loss)
        ignores = loss in (None, functional.cross_entropy, functional.nll_loss)
        ignores = ignores or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)
        if ignores and isinstance(labels, Tensor) and not labels.is_floating_point():
            counted = labels[labels != option_of(self.loss, "ignore_index", -100)]
            of_class = option_of(self.loss, "weight")
            return counted.numel() if of_class is None else float(of_class.to(labels.device)[counted].sum())
        sizes = [leaf.numel() for leaf in leaves_of((target, batch)) if isinstance(leaf, Tensor)]
        return sizes[0] if sizes else 1


def _map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a copy of `value`, of the same type, in which `change` is applied to each tensor."""
    if isinstance(value, tuple | list) and type(value) not in (tuple, list):  # torch does not look into every subclass
        make = getattr(value, "_make", tuple if isinstance(value, tuple) else list)  # a named tuple makes others of its type
        return make(_map_tensors(change, part) for part in value)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        value = dict(value)  # items of a copy cannot be set
    leaves, rebuild = flatten(value)
    return rebuild([change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def check_batches(batches: Any) -> None:
    """Raise TypeError unless `batches` is an iterable, and neither a tensor, a str nor a mapping."""
    if isinstance(batches, Tensor | str | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches has type {type(batches).__name__}; give an iterable of pairs (input, target), or of dicts of arguments"
        )


def _own_loss(output: Any) -> Any:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        raise ValueError(
            f"the model's output, of type {type(output).__name__}, has no loss; "
            "give a loss, or batches from which the model computes its own loss (with labels, for instance)"
        )
    return loss
