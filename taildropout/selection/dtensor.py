"""Tail dropout of a DTensor, whose features or samples are spread over devices, without talking to the other devices.

A shard that holds the features from `start` on keeps its first k − start, so that all shards keep their part of one prefix.
That asks for the same k on every device that holds a part of a sample: the random numbers of these must be the same (one seed
for the ranks of a tensor-parallel group), and those of devices with other samples should differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(input: Tensor) -> TypeGuard[DTensor]:
    """Whether the input is a DTensor; torch's module for these, which takes long to import, is there then."""
    return type(input) is not Tensor and hasattr(input, "device_mesh") and hasattr(input, "placements")


def starts(input: DTensor) -> list[int]:
    """Where this device's part begins in every dim.

    Raises:
        ValueError: if the parts are summands, or are not cut like `torch.chunk` cuts.
    """
    from torch.distributed.tensor import Replicate, Shard

    start, left = [0] * input.dim(), list(input.shape)
    for mesh_dim, placement in enumerate(input.placements):
        if type(placement) is Shard:
            dim = placement.dim
            size = -(-left[dim] // input.device_mesh.size(mesh_dim))
            before = min(input.device_mesh.get_local_rank(mesh_dim) * size, left[dim])
            start[dim] += before
            left[dim] = min(size, left[dim] - before)
        elif type(placement) is not Replicate:
            raise ValueError(
                f"input is a DTensor with {placement}; tail dropout selects, which is done to numbers that are whole: "
                "redistribute it to Shard or Replicate"
            )
    return start


def on_shard(input: DTensor, keep: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """The DTensor of what `keep` makes of this device's part, given where that begins; of the same shape."""
    from torch.distributed.tensor import DTensor

    kept = keep(input.to_local(), starts(input))
    result: Tensor = DTensor.from_local(
        kept, input.device_mesh, input.placements, run_check=False, shape=input.shape, stride=input.stride()
    )
    return result


def part_of(k: Tensor, local: Tensor, start: list[int], feature: int) -> Tensor:
    """Of k for the whole tensor (0-d, or broadcasting to it) what is for this part, counted from its first feature."""
    if k.dim():
        for dim, size in enumerate(local.shape):
            if k.size(dim) > 1:
                k = k.narrow(dim, start[dim], size)
    return k - start[feature]
