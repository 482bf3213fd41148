"""keep_first of a DTensor, whose features or samples are sharded over devices, without communication.

A shard with the features from `start` on keeps its first k − start features, so that all shards together keep one prefix. This
needs the same k on all devices that hold a part of one sample: they must draw the same random numbers (one seed for the ranks
of a tensor-parallel group). Devices with different samples should draw different numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(input: Tensor) -> TypeGuard[DTensor]:
    """Return True if `input` is a DTensor. Does not import torch's module for DTensors, which takes long."""
    return type(input) is not Tensor and hasattr(input, "device_mesh") and hasattr(input, "placements")


def starts(input: DTensor) -> list[int]:
    """Return the index in each dim at which the shard of this device begins.

    Raises:
        ValueError: if a placement is neither Replicate nor Shard: the shards of `Partial`, say, are not values but summands.
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
                f"input is a DTensor with {placement}; tail dropout needs complete values: redistribute to Shard or Replicate"
            )
    return start


def on_shard(input: DTensor, keep: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    """Return a DTensor like `input` in which the shard of this device is `keep(shard, start)`, with `start` as in `starts`."""
    from torch.distributed.tensor import DTensor

    kept = keep(input.to_local(), starts(input))
    result: Tensor = DTensor.from_local(
        kept, input.device_mesh, input.placements, run_check=False, shape=input.shape, stride=input.stride()
    )
    return result


def part_of(k: Tensor, local: Tensor, start: list[int], feature: int) -> Tensor:
    """Return the number of features that the shard `local` keeps: its part of `k`, less the number of features before it.

    `k` is 0-d, or broadcasts to the whole tensor. `start` is as in `starts`; `feature` is the dim of features.
    """
    if k.dim():
        for dim, size in enumerate(local.shape):
            if k.size(dim) > 1:
                k = k.narrow(dim, start[dim], size)
    return k - start[feature]
