"""How the tail is selected away, in ways that are bitwise equal.

Under a compiler, one `where`. In eager, a `masked_fill` for small inputs; for large ones an autograd function that saves
nothing but k and, where memory order allows, copies what stays and zeroes the rest, row by row: on a CPU in C, on a GPU by the
Triton kernel of `kernels`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import dispatch_modes, forward_mode_active, has_storage, is_wrapped, is_zero_tensor, transforms_active
from ..dims import Layout, features_of, positions, row_layout
from .dtensor import is_sharded, on_shard, part_of

try:
    from . import _rows
except ImportError as error:  # built without a compiler: the same results from plain torch, slower
    _rows = None  # type: ignore[assignment]
    why_no_rows = f"not in use: {error} (reinstall with a C compiler)"
else:
    why_no_rows = ""

# From this many elements on, a CPU uses an autograd function that saves k alone. It costs some 50 µs a step more than a
# `masked_fill`, which saves a byte per element and is slow; the two are measured to meet at about 16 000.
SAVE_ONLY_K_FROM = 2**14

# From this many elements on, a GPU uses the autograd function and in it the Triton kernel; below, a `masked_fill`. An H100 is
# done with the kernel sooner at every size: after 1.8 µs, not 5, for 2¹⁴ elements of float32, and 19, not 68, for 2²³. But
# launching it from an autograd function in Python takes the host longer: 60 µs forward, not 50, and 230 to 270 a training step,
# not 170, in a virtual machine. There, calls one after the other meet between 2²³ and 2²⁴ elements of float32 forward, between
# 2²⁴ and 2²⁵ with backward, and in bfloat16 at twice as many. The least of these stands here, since in a large model other work
# keeps the GPU busy while the host launches.
FUSED_FROM = 2**23

# A thread is worth starting, at some 20 µs, for this many bytes.
_BYTES_PER_THREAD = 2**20


_constants: dict[tuple[int, int, int, torch.device], Tensor] = {}


def kept_positions(n: int, feature: int, ndim: int, device: torch.device) -> Tensor:
    """`positions`, kept for the next call: at 128 elements making them anew costs as much as all the rest."""
    key = (n, feature, ndim, device)
    kept = _constants.get(key)
    if kept is None:
        with torch.inference_mode(False):
            kept = positions(*key)
        # A fake tensor, one wrapped by a function transform, or one that a CUDA graph has yet to fill, is none to keep; nor is
        # one of many megabytes.
        capturing = kept.is_cuda and torch.cuda.is_current_stream_capturing()
        if type(kept) is Tensor and not is_wrapped(kept) and not capturing and n <= 2**16:
            if len(_constants) >= 128:
                _constants.clear()
            _constants[key] = kept
    return kept


_row_layout = lru_cache(maxsize=1024)(row_layout)


def transformed() -> bool:
    """Whether tensors may be wrapped by a transform of functorch, so without memory, or observed by a dispatch mode."""
    return transforms_active() or dispatch_modes() > 0


def _in_memory(tensor: Tensor) -> bool:
    """Return True if `data_ptr()` points at this tensor's own dense values.."""
    return type(tensor) is Tensor and has_storage(tensor) and not (is_zero_tensor(tensor) or tensor.is_quantized)


def _rows_of(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """The rows by which code that knows addresses alone can go, or None."""
    if not (_in_memory(input) and _in_memory(k)) or transformed() or input.is_neg() or input.is_conj():
        return None
    return _row_layout(input.shape, input.stride(), k.shape, feature)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


_kernels: dict[torch.device, ModuleType | None] = {}


def _kernels_on(device: torch.device) -> ModuleType | None:
    """The module of kernels where Triton works on this device, which the first call tries; None elsewhere."""
    if device not in _kernels:
        if find_spec("triton") is None:
            _kernels[device] = None
        elif torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return None  # nothing can be loaded now
        else:
            try:
                module = import_module(".triton_kernel", __package__)
                module.keep_first(torch.ones(1, device=device), torch.ones((), device=device))
            except Exception as error:  # no C compiler for its launcher, a GPU too old for it, another version …
                why = f"{type(error).__name__}: {error}"
                warnings.warn(
                    f"Triton does not work on {device}, so that plain torch selects, more slowly. {why}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                module = None
            _kernels[device] = module
    return _kernels[device]


def kernel_works(device: torch.device) -> bool:
    """Return True if the Triton kernel runs on this GPU, which the first call tries out."""
    return _kernels_on(device) is not None


def _save_only_k_from(input: Tensor) -> int:
    return FUSED_FROM if _on_gpu(input) else SAVE_ONLY_K_FROM


def _rows_for_triton(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """The rows by which the Triton kernel goes, or None where it cannot be used."""
    if input.numel() < FUSED_FROM or k.device != input.device:
        return None
    rows = _rows_of(input, k, feature)
    return None if rows is None or _kernels_on(input.device) is None else rows


def _rows_for_c(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """The rows by which the C code goes, or None where it cannot be used."""
    return _rows_of(input, k, feature) if _rows and input.is_cpu and k.is_cpu else None


def way(input: Tensor, k: Tensor, feature: int) -> str:
    """Name the code that eager mode selects the tail of `input` with; see `select` for the arguments."""
    if input.numel() < _save_only_k_from(input):
        return "masked_fill"
    if _on_gpu(input):
        return "torch" if _rows_for_triton(input, k, feature) is None else "Triton kernel"
    return "torch" if _rows_for_c(input, k, feature) is None else "rows in C"


def _fused(input: Tensor, k: Tensor, feature: int, inplace: bool = False) -> Tensor | None:
    """keep_first by the Triton kernel, without autograd; None where it cannot be used, and nothing is done."""
    rows = _rows_for_triton(input, k, feature)
    if rows is None:
        return None
    kernels = _kernels_on(input.device)
    assert kernels is not None
    output = input if inplace else torch.empty_like(input)
    kernels.launch(input, output, k, feature, rows)
    return output


def _fill(input: Tensor, dropped: Tensor) -> Tensor:
    # `masked_fill` is the fastest with its backward, but its result is always contiguous; `clone` keeps the layout.
    if input.is_contiguous() or transforms_active():
        return input.masked_fill(dropped, 0)
    return input.clone().masked_fill_(dropped, 0)


def _select(input: Tensor, k: Tensor, feature: int) -> Tensor:
    """keep_first without autograd, writing little more than the result."""
    n = input.size(feature)
    if _on_gpu(input):
        if (fused := _fused(input, k, feature)) is not None:
            return fused
    elif rows := _rows_for_c(input, k, feature):
        fractional = k.dtype == torch.float32
        k = (k.permute(rows.order) if k.dim() else k).expand(rows.per_row)
        k = (k if fractional else k.clamp(0, n).to(torch.int64)).contiguous()
        output = torch.empty_like(input)
        threads = min(torch.get_num_threads(), input.numel() * input.element_size() // _BYTES_PER_THREAD)
        size = rows.unit * input.element_size()
        _rows.keep_rows(input.data_ptr(), output.data_ptr(), k.data_ptr(), fractional, k.numel(), n, size, threads)
        return output
    return _fill(input, k < positions(n, feature, input.dim(), input.device))


class _KeepFirst(torch.autograd.Function):
    """keep_first that saves k alone. It is linear, so that its derivative in either direction is itself."""

    @staticmethod
    def forward(input: Tensor, k: Tensor, feature: int) -> Tensor:
        return _select(input, k, feature)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, k, ctx.feature = inputs
        ctx.save_for_backward(k)
        ctx.save_for_forward(k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (k,) = ctx.saved_tensors
        again = torch.is_grad_enabled() or transforms_active()  # a graph of the backward is wanted
        return (_keep_saving_k if again else _select)(grad, k, ctx.feature), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (k,) = ctx.saved_tensors
        return _keep_saving_k(tangent, k, ctx.feature)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], input: Tensor, k: Tensor, feature: int) -> tuple[Tensor, int]:
        at = in_dims[0]
        input = input.expand(info.batch_size, *input.shape) if at is None else input.movedim(at, 0)
        if in_dims[1] is not None:
            k = k.movedim(in_dims[1], 0)
            k = k.reshape(-1, *(k.shape[1:] or [1] * (input.dim() - 1)))
        elif k.dim():
            k = k.unsqueeze(0)
        return _keep_saving_k(input, k, feature + 1), 0


class _KeepFirstInReverse(torch.autograd.Function):
    """The same for reverse mode alone, which takes some 3 % less of a small tensor's training step."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, k: Tensor, feature: int) -> Tensor:
        ctx.save_for_backward(k)
        ctx.feature = feature
        return _select(input, k, feature)

    backward = _KeepFirst.backward


# `Function.apply` inspects the signature of forward at every call, which takes longer than a kernel; its base does not. Only
# functorch needs the whole of it.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _KeepFirst).apply
_apply_in_reverse: Callable[..., Tensor] = super(torch.autograd.Function, _KeepFirstInReverse).apply


def _keep_saving_k(input: Tensor, k: Tensor, feature: int) -> Tensor:
    if transforms_active():
        return cast(Tensor, _KeepFirst.apply(input, k, feature))  # type: ignore[no-untyped-call]
    return (_apply if forward_mode_active() else _apply_in_reverse)(input, k, feature)


def _write(input: Tensor, k: Tensor, feature: int) -> bool:
    """Zero the tail where it lies, if the kernel can be used and autograd need not be asked. Whether it is done."""
    asked = (torch.is_grad_enabled() and input.requires_grad) or forward_mode_active()
    if asked or input.is_inference() != torch.is_inference_mode_enabled() or _fused(input, k, feature, inplace=True) is None:
        return False
    if not input.is_inference():
        torch.autograd.graph.increment_version(input)
    return True


def _expanded(input: Tensor) -> bool:
    return any(step == 0 and size > 1 for step, size in zip(input.stride(), input.shape, strict=True))


def select(input: Tensor, k: Tensor, feature: int, inplace: bool = False, one_to_n: Tensor | None = None) -> Tensor:
    """`keep_first` for arguments already checked: `feature` counts from 0, `k` broadcasts to the input.

    Compiled code reads the positions from `one_to_n` where it is given, and counts them otherwise.
    """
    if is_sharded(input):
        return on_shard(input, lambda part, start: select(part, part_of(k, part, start, feature), feature, inplace))
    if inplace and not input.is_contiguous() and _expanded(input):
        raise RuntimeError("input is expanded: several of its elements are one in memory; write into input.clone()")
    count = input.numel()
    if torch.compiler.is_compiling() or type(count) is not int:  # `torch.jit.trace` gives tensors for sizes
        if one_to_n is None:
            one_to_n = positions(
                input.shape[feature] if type(count) is int else features_of(input, feature), feature, input.dim(), input.device
            )
        else:
            one_to_n = one_to_n.reshape(-1, *[1] * (input.dim() - feature - 1))
        kept = torch.where(one_to_n <= k, input, 0)
    elif count >= _save_only_k_from(input):
        if inplace and _on_gpu(input) and _write(input, k, feature):
            return input
        kept = _keep_saving_k(input, k, feature)
    else:
        dropped = k < kept_positions(input.size(feature), feature, input.dim(), input.device)
        return input.masked_fill_(dropped, 0) if inplace else _fill(input, dropped)
    # Autograd refuses some tensors (a leaf; one of several views): `copy_` asks it before anything is written.
    return input.copy_(kept) if inplace else kept
