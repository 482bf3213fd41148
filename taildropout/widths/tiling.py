"""Several copies of a batch in one forward, each with its own width: find the dims along which the copies lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import keep_first
from ..pruning.verification import difference
from ..trees import flatten, leaves_of
from .recording import Recording
from .strategy import PER_COPY, dim_of_copies, repeat

# The most elements that all copies of the largest tensor have together, unless the caller sets a limit.
_ELEMENTS_CPU, _ELEMENTS = 2**22, 2**26


class Tiling:
    """The dims along which copies lie: in the model's input, in the recorded outputs, and in the layer's input.

    The dim of the model's input is given. The others are found in the first forward, by comparison with that of a single copy.

    Args:
        input: the model's input, a single copy.
        dim: the dim of samples in the model's input.
        single_shapes: the shape of the layer's input at each call of the layer, for a single copy.
        largest: the number of elements of the largest tensor, for a single copy.
    """

    def __init__(self, input: Any, dim: int, single_shapes: Sequence[torch.Size], largest: int) -> None:
        self.dim, self._largest, self._single_shapes = dim, largest, single_shapes
        self._input_dims = _sample_dims(leaves_of(input), dim)
        self._layer_dims: list[int] = []  # one per call of the layer
        self._output_dims: list[list[int | None]] = []  # one list per recorded call

    def possible(self) -> bool:
        """Return True if a tensor of the model's input has the dim of samples."""
        return any(dim is not None for dim in self._input_dims)

    def input(self, input: Any, copies: int) -> Any:
        """Return the model's input with `copies` copies of the batch, side by side."""
        return _tile(input, self._input_dims, copies)

    def tiled_output(self, copies: int) -> Callable[[int, Any], Any]:
        """Return a function that makes `copies` copies of a recorded output, given the index of the call and the output."""
        return lambda call, output: _tile(output, self._output_dims[call], copies)

    def copies_at_a_time(self, input: Any, max_rows: int | None) -> int:
        """Return how many copies of this input one forward may hold, at least 1; `max_rows` as in `scree`."""
        tensors: list[Tensor] = [leaf for leaf, dim in zip(leaves_of(input), self._input_dims, strict=True) if dim is not None]
        if max_rows is not None:
            return max(1, max_rows // max(1, int(tensors[0].shape[self.dim])))
        return max(1, (_ELEMENTS_CPU if tensors[0].is_cpu else _ELEMENTS) // max(1, self._largest))

    def layer_dim(self, call: int, input: Tensor, copies: int, feature: int) -> int:
        """Return the dim of copies in the layer's input, at the layer's call with index `call`; `feature`: dim of features.

        Raises:
            RuntimeError: if there is no such dim, it is the dim of features, or a single copy has fewer calls of the layer.
        """
        if call == len(self._layer_dims):
            if call == len(self._single_shapes):
                raise RuntimeError("copies of the samples make the model call the layer more often")
            dim = dim_of_copies(input, torch.empty(self._single_shapes[call], device="meta"), copies)
            if dim is None or dim == feature % input.dim():
                raise RuntimeError("copies of the samples are no samples of the layer's input")
            self._layer_dims.append(dim)
        return self._layer_dims[call]

    def keep(self, input: Tensor, widths: Sequence[int], feature: int, dim: int) -> Tensor:
        """Return `input` with the first k features of each copy kept and the others 0, with one k in `widths` per copy.

        `feature` is the dim of features, and `dim` the dim of copies.
        """
        shape = [1] * input.dim()
        shape[dim] = -1
        k = torch.tensor(widths, device=input.device).repeat_interleave(input.shape[dim] // len(widths))
        return keep_first(input, k.reshape(shape), feature)

    def learn_outputs(self, single: Recording, tiled: Recording, copies: int) -> bool:
        """Find the dims of copies in recorded outputs; return True if the outputs in `tiled` equal copies of those in `single`.

        The outputs need to be equal up to rounding only.
        """
        if [module for module, _ in single.calls] != [module for module, _ in tiled.calls]:
            return False
        try:
            pairs = [(leaves_of(many), leaves_of(one)) for one, many in zip(single.outputs, tiled.outputs, strict=True)]
            self._output_dims = [[dim_of_copies(*leaf, copies) for leaf in zip(*pair, strict=True)] for pair in pairs]
        except (RuntimeError, ValueError):  # their shapes or numbers of leaves differ otherwise
            return False
        if any(PER_COPY in dims for dims in self._output_dims):
            return False
        make = self.tiled_output(copies)
        expected = [leaf for call, output in enumerate(single.outputs) for leaf in leaves_of(make(call, output))]
        return difference(expected, [leaf for many, _ in pairs for leaf in many], 0) is None


def _sample_dims(leaves: Sequence[Any], dim: int) -> list[int | None]:
    """Return `dim` for every tensor with as many samples along it as the first tensor that has it, None for other leaves."""
    lengths = [leaf.shape[dim] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > dim]
    fits = [isinstance(leaf, Tensor) and leaf.dim() > dim and leaf.shape[dim] == lengths[0] for leaf in leaves]
    return [dim if fit else None for fit in fits]


def _tile(value: Any, dims: Sequence[int | None], copies: int) -> Any:
    leaves, rebuild = flatten(value)
    return rebuild([leaf if dim is None else repeat(leaf, dim, copies) for leaf, dim in zip(leaves, dims, strict=True)])
