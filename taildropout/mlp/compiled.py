"""The feed-forward blocks in a compiled graph: decide whether a call becomes the operator `ragged_mlp`."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from .._torch import constant_in_graphs, exporting, forward_mode_active, transforms_active
from ..layer import TailDropout
from .activation import name_of
from .operands import Operands
from .operator import ragged_mlp

# Multiplications in the first Linear below which the modules are compiled instead: a call of the operator goes through Python.
_SMALL = 2**25


def output_in_graph(operands: Operands, module: nn.Module, dropout: TailDropout) -> Tensor | None:
    """Return the output of a block by the operator `ragged_mlp`, or None if the block's modules must compute the output.

    `module` is the activation. A compiler traces this function, which reads neither p nor the value of k, so that the graph is
    valid for every p and k.
    """
    input, n = operands.x, operands.w1.shape[0]
    if not (dropout.training or dropout.fixed_k.k is not None) or not _can_be_operator(input):
        return None
    if input.numel() * n < _SMALL:
        return None
    if not (operands.plain() and operands.fit() and dropout.dropout_dim in (-1, input.dim() - 1)):
        return None
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    cast = operands.in_one_dtype(autocast)
    if cast is None:
        return None
    activation = name_of(module)
    if activation is None:
        _warn_of("TailMLP" if operands.up is None else "GatedTailMLP", type(module).__name__)
        return None
    shape = torch.Size((*input.shape[:-1], n))
    k = dropout.drawn_in_graph(input, shape) if dropout.fixed_k.k is None else dropout.k_for(shape, input.device)[0]
    k = k.reshape(()) if _shared(k) else k.expand(*shape[:-1], 1).reshape(-1)
    training = torch.is_grad_enabled() and any(each.requires_grad for each in cast.tensors())
    output: Tensor = ragged_mlp(*cast.in_rows(), k, activation, training)[0]
    return output.reshape(*input.shape[:-1], operands.w2.shape[0])


def _can_be_operator(input: Tensor) -> bool:
    """Return False for all devices but the CPU (not measured), nested tensors, exported code, and under transforms."""
    return not (input.device.type != "cpu" or input.is_nested or exporting() or transforms_active() or forward_mode_active())


def _shared(k: Tensor) -> bool:
    """Return True if all rows have the same k."""
    return math.prod(k.shape) == 1


_warned_of: set[tuple[str, str]] = set()


@constant_in_graphs
def _warn_of(block: str, activation: str) -> None:
    if (block, activation) not in _warned_of:
        _warned_of.add((block, activation))
        warnings.warn(
            f"{block} computes everything in compiled code, because its activation {activation} is not one of GELU, ReLU, "
            "SiLU, Tanh, Sigmoid and Identity; use one of these, or call the block in a function under torch.compiler.disable",
            stacklevel=2,
        )
