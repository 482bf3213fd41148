"""Choose the code that computes keep_first in eager mode: plain torch, rows in C or the Triton kernel, all with equal bits.

The autograd function is in `saving_k`. C and Triton copy the kept part of each row and zero the rest, so that they
write little more than the result. Both need rows of features in memory (see `layout`).
"""

from __future__ import annotations

import math
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from .._torch import forward_mode_active, is_wrapped, transforms_active
from ..dims import positions
from .layout import Layout, rows_in_memory

try:
    from . import _rows
except ImportError as error:  # built without a compiler: the same results from plain torch, slower
    _rows = None  # type: ignore[assignment]
    why_no_rows = f"not in use: {error} (reinstall with a C compiler)"
else:
    why_no_rows = ""

# From this number of elements on, a CPU uses an autograd function that saves only k. Its overhead is about 50 µs a step more
# than that of a `masked_fill`, which saves one byte per element and is slow for large tensors. At about 16 000 elements the two
# take the same time.
SAVE_ONLY_K_FROM = 2**14

# From this number of elements on, a GPU uses the autograd function, and in it the Triton kernel; below, a `masked_fill`. On an
# H100 the kernel itself is faster at every size: 1.8 µs against 5 µs for 2¹⁴ elements of float32, 19 µs against 68 µs for 2²³.
# But to launch it from an autograd function in Python takes the host longer (in a virtual machine 60 µs against 50 µs forward,
# and 230 to 270 µs against 170 µs for a training step). In that machine, calls one after the other take equally long between
# 2²³ and 2²⁴ elements of float32 forward, between 2²⁴ and 2²⁵ with backward, and at twice as many elements in bfloat16. The
# smallest number is used, since in a large model other work keeps the GPU busy while the host launches.
FUSED_FROM = 2**23

# The C code uses one thread for each of this many bytes, because a thread takes about 20 µs to start.
_BYTES_PER_THREAD = 2**20


_constants: dict[tuple[int, int, int, torch.device], Tensor] = {}


def kept_positions(n: int, feature: int, ndim: int, device: torch.device) -> Tensor:
    """Return `positions` from a cache. For an input of 128 elements, computing them takes as long as the rest of the call."""
    key = (n, feature, ndim, device)
    kept = _constants.get(key)
    if kept is None:
        with torch.inference_mode(False):
            kept = positions(*key)
        # Not kept: fake tensors, tensors wrapped by a transform, tensors that a CUDA graph fills later, and large tensors.
        capturing = kept.is_cuda and torch.cuda.is_current_stream_capturing()
        if type(kept) is Tensor and not is_wrapped(kept) and not capturing and n <= 2**16:
            if len(_constants) >= 128:
                _constants.clear()
            _constants[key] = kept
    return kept


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


_kernels: dict[torch.device, ModuleType | None] = {}


def _kernels_on(device: torch.device) -> ModuleType | None:
    """Return the module with the Triton kernels, or None if Triton does not work there. The first call tries, and may warn."""
    if device not in _kernels:
        if find_spec("triton") is None:
            _kernels[device] = None
        elif torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return None  # nothing can be loaded during a capture
        else:
            try:
                module = import_module(".triton_kernel", __package__)
                input, k = torch.ones(1, device=device), torch.ones((), device=device)
                module.launch(input, torch.empty_like(input), k, 0, Layout(order=(0,), per_row=(1,), unit=1))
            except Exception as error:  # Triton lacks a C compiler, the GPU is too old, its version does not fit …
                why = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"Triton does not work on {device}, so plain torch is used, which is slower. {why}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                module = None
            _kernels[device] = module
    return _kernels[device]


def kernel_works(device: torch.device) -> bool:
    """Return True if the Triton kernel runs on this GPU. The first call tries the kernel, and warns if it fails."""
    return _kernels_on(device) is not None


def save_only_k_from(input: Tensor) -> int:
    """Return the number of elements from which on the autograd function is used on the device of `input`."""
    return FUSED_FROM if _on_gpu(input) else SAVE_ONLY_K_FROM


def _rows_for_triton(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """Return the rows of `input` for the Triton kernel, or None if the kernel cannot be used or would not be faster."""
    if input.numel() < FUSED_FROM or k.device != input.device:
        return None
    rows = rows_in_memory(input, k, feature)
    return None if rows is None or _kernels_on(input.device) is None else rows


def _rows_for_c(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """Return the rows of `input` for the C code, or None if the C code cannot be used."""
    return rows_in_memory(input, k, feature) if _rows and input.is_cpu and k.is_cpu else None


def code_for(input: Tensor, k: Tensor, feature: int) -> str:
    """Return a name for the code that eager mode uses, for people to read; see `select` for the arguments."""
    if input.numel() < save_only_k_from(input):
        return "masked_fill"
    if _on_gpu(input):
        return "torch" if _rows_for_triton(input, k, feature) is None else "Triton kernel"
    return "torch" if _rows_for_c(input, k, feature) is None else "rows in C"


def keep_unrecorded(input: Tensor, k: Tensor, feature: int) -> Tensor:
    """Return keep_first of `input` by the fastest code, without autograd."""
    n = input.size(feature)
    if _on_gpu(input):
        if (kept := _by_triton(input, k, feature)) is not None:
            return kept
    elif rows := _rows_for_c(input, k, feature):
        return _by_c(input, k, n, rows)
    return fill(input, k < positions(n, feature, input.dim(), input.device))


def _by_c(input: Tensor, k: Tensor, n: int, rows: Layout, inplace: bool = False) -> Tensor:
    fractional = k.dtype == torch.float32
    k = k if fractional else k.clamp(0, n).to(torch.int64)
    # As a rule k has one element per row already, in the order of the rows; to permute it takes as long as 2**14 elements.
    if not (k.numel() == math.prod(rows.per_row) and rows.order == tuple(range(k.dim())) and k.is_contiguous()):
        k = (k.permute(rows.order) if k.dim() else k).expand(rows.per_row).contiguous()
    output = input if inplace else torch.empty_like(input)
    threads = min(torch.get_num_threads(), input.numel() * input.element_size() // _BYTES_PER_THREAD)
    feature_bytes = rows.unit * input.element_size()
    _rows.keep_rows(input.data_ptr(), output.data_ptr(), k.data_ptr(), fractional, k.numel(), n, feature_bytes, threads)
    return output


def _by_triton(input: Tensor, k: Tensor, feature: int, inplace: bool = False) -> Tensor | None:
    """Return the result of the Triton kernel; None, with nothing written, if the kernel cannot be used."""
    rows = _rows_for_triton(input, k, feature)
    if rows is None:
        return None
    kernels = _kernels_on(input.device)
    assert kernels is not None
    output = input if inplace else torch.empty_like(input)
    kernels.launch(input, output, k, feature, rows)
    return output


def fill(input: Tensor, dropped: Tensor) -> Tensor:
    """Return `input` with 0 where `dropped` is True, in the memory format of `input`. Autograd records it."""
    # `masked_fill` is fastest with its backward, but its result is always contiguous; `clone` keeps the memory format.
    if input.is_contiguous() or transforms_active():
        return input.masked_fill(dropped, 0)
    return input.clone().masked_fill_(dropped, 0)


def zero_tail(input: Tensor, k: Tensor, feature: int) -> bool:
    """Zero the tail in place by the C code or the Triton kernel, and return True.

    Return False, with nothing written, if neither can be used, or if autograd must record or may refuse the write.
    """
    if (torch.is_grad_enabled() and input.requires_grad) or forward_mode_active():
        return False
    if input.is_inference() != torch.is_inference_mode_enabled():
        return False
    if _on_gpu(input):
        if _by_triton(input, k, feature, inplace=True) is None:
            return False
    elif rows := _rows_for_c(input, k, feature):
        _by_c(input, k, input.size(feature), rows, inplace=True)
    else:
        return False
    if not input.is_inference():
        torch.autograd.graph.increment_version(input)
    return True
