"""The fused kernel: bitwise the oracle, by Triton's interpreter on the CPU and on a GPU where there is one."""

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import oracles
import pytest
import torch
from hypothesis import example, given, settings
from oracles import keep_first_at_once as plain
from package.selection.test_selection import DTYPES, assert_bitwise, problems
from torch import Tensor

from taildropout.selection.layout import Layout, row_layout

ALL_DTYPES = [*DTYPES, torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64]


def rows_of(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    return row_layout(input.shape, input.stride(), k.shape, feature)


def packed(input: Tensor) -> Tensor:
    """Return a copy in new memory, without the odd strides that a dim of size 1 may have."""
    return torch.empty(input.shape, dtype=input.dtype).copy_(input)


@pytest.mark.parametrize("tile_bytes", [32, 8192])
def test_any_problem_is_bitwise_the_oracle(
    place: SimpleNamespace, launches: list[str], tile_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.kernels, "TILE_BYTES", tile_bytes)

    @settings(max_examples=50 if place.device == "cpu" else 1000)
    @given(problems())
    @example((torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2), torch.tensor([[[2, 0, 4]]]), 1))
    @example(
        (torch.arange(24.0).reshape(2, 2, 2, 3), torch.tensor([[[[2], [0]]], [[[3], [1]]]]), 3)
    )  # of 2 dims with one between
    def check(problem: tuple[Tensor, Tensor, int]) -> None:
        input, k, dim = problem
        wanted = oracles.keep_first(input, k, dim)
        input, k = input.to(place.device), k.to(place.device)
        select, feature = place.package.selection.select, dim % input.dim()
        for each in (select(input, k, feature), select(input, k, feature, inplace=True)):
            assert_bitwise(packed(each), packed(wanted))

    check()
    assert set(launches) == {"new", "in place"}


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize(("width", "offset"), [(1, 0), (16, 0), (16, 1), (255, 1), (3001, 0)])
def test_every_dtype_misaligned_and_at_odd_sizes_with_nothing_written_beside(
    place: SimpleNamespace, launches: list[str], dtype: torch.dtype, width: int, offset: int
) -> None:
    rows, select = 5, place.package.selection.select
    memory = torch.randn(rows * width + 2, device=place.device).mul(50).to(dtype)
    input = memory[offset : offset + rows * width].view(rows, width)
    k = torch.tensor([0, width, width // 2, 1, width + 7], device=place.device)[:, None]
    tail = plain(torch.ones_like(input, dtype=torch.bool), k).logical_not()
    if dtype.is_floating_point or dtype.is_complex:
        input[tail] = math.nan
    wanted = plain(input, k)
    for each in (k, k.float() + 0.25, k.double() + 0.75, k.int()):
        assert_bitwise(select(input, each, 1), wanted)
    assert_bitwise(select(input, k[2, 0], 1), plain(input, k[2, 0]))
    before = memory.clone()
    select(input, k, 1, inplace=True)
    assert launches == ["new"] * 5 + ["in place"]
    assert_bitwise(input, wanted)
    assert_bitwise(memory[:offset], before[:offset])
    assert_bitwise(memory[offset + rows * width :], before[offset + rows * width :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
def test_a_second_launch_of_one_kind_and_launches_of_other_kinds_in_between(place: SimpleNamespace, dtype: torch.dtype) -> None:
    """What is compiled for aligned memory, or for another dtype of k, must not be launched for what is neither."""
    memory = torch.randn(9 * 65, device=place.device).to(dtype)
    for width, offset, of_k in [
        (64, 0, torch.float32),
        (64, 1, torch.float32),
        (64, 0, torch.int64),
        (65, 0, torch.float32),
    ] * 2:
        input = memory[offset : offset + 8 * width].view(8, width)
        k = torch.randint(0, width + 1, (8, 1), device=place.device).to(of_k)
        output = torch.full_like(input, math.nan)
        place.kernels.launch(input, output, k, 1, rows_of(input, k, 1))
        assert_bitwise(output, plain(input, k))


def test_triton_looks_at_launches_of_one_kind_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("taildropout.selection.triton_kernel", reason="needs Triton: pip install triton, on Linux")
    looks, again = [], []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Callable[..., object]:
            return lambda *arguments: looks.append((grid, arguments)) or Compiled()

    class Compiled:
        def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., object]:
            return lambda *arguments: again.append((grid, arguments))

    monkeypatch.setattr(kernels, "JITFunction", Kernel)
    monkeypatch.setattr(kernels, "_keep_rows", Kernel())
    monkeypatch.setattr(kernels, "_compiled", {})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    memory, k = torch.zeros(9, 64, dtype=torch.int32), torch.full((8, 1), 3.0)
    for start in (0, 64, 1):  # 256 bytes further are aligned, 4 are not
        part = memory.view(-1)[start : start + 8 * 64].view(8, 64)
        plan = kernels._plan(rows_of(part, k, 1), (8, 1), 64, 1, 4, kernels.TILE_BYTES)
        kernels._run(plan, (part, torch.empty_like(part), k, *plan.sizes, False, *plan.tile))
    assert (len(looks), len(again)) == (2, 1)
    (grid, first), (whole_grid, second) = looks[0], again[0]
    assert whole_grid == (*grid, 1, 1)
    assert first[3:] == second[3:]


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


# Input, shape of k, dim of features: rows of memory, so fused.
FUSED: dict[str, Callable[[], tuple[Tensor, tuple[int, ...], int]]] = {
    "1-D": lambda: (torch.randn(40), (), 0),
    "matrix, a k": lambda: (torch.randn(9, 40), (), 1),
    "matrix, k per row": lambda: (torch.randn(9, 40), (9, 1), 1),
    "tokens, k per sequence": lambda: (torch.randn(4, 5, 40), (4, 1, 1), 2),
    "tokens, k per time step": lambda: (torch.randn(4, 5, 40), (1, 5, 1), 2),
    "tokens, k per token": lambda: (torch.randn(4, 5, 40), (4, 5, 1), 2),
    "k for the first and third of four dims": lambda: (torch.randn(2, 3, 4, 40), (2, 1, 4, 1), 3),
    "images": lambda: (torch.randn(3, 6, 5, 7), (3, 1, 1, 1), 1),
    "images, channels last": lambda: (channels_last(3, 6, 5, 7), (3, 1, 1, 1), 1),
    "images, channels last, k per pixel": lambda: (channels_last(3, 6, 5, 7), (3, 1, 5, 7), 1),
    "features first": lambda: (torch.randn(40, 9), (), 0),
    "transposed": lambda: (torch.randn(9, 40).t(), (1, 9), 0),
    "permuted": lambda: (torch.randn(4, 5, 40).permute(1, 2, 0), (5, 1, 4), 1),
}
# These are plain torch's.
NOT_FUSED: dict[str, Callable[[], tuple[Tensor, tuple[int, ...], int]]] = {
    "features first, k per column": lambda: (torch.randn(40, 9), (1, 9), 0),
    "images, k per pixel": lambda: (torch.randn(3, 6, 5, 7), (3, 1, 5, 7), 1),
    "every second column": lambda: (torch.randn(9, 80)[:, ::2], (9, 1), 1),
    "a block of columns": lambda: (torch.randn(9, 80)[:, :40], (9, 1), 1),
    "expanded": lambda: (torch.randn(1, 40).expand(9, 40), (9, 1), 1),
}


@pytest.mark.parametrize("name", [*FUSED, *NOT_FUSED])
def test_which_cases_are_fused(place: SimpleNamespace, launches: list[str], name: str) -> None:
    with torch.device(place.device):  # moving a view there would make it dense
        input, sizes, dim = {**FUSED, **NOT_FUSED}[name]()
    k = torch.randint(0, input.shape[dim] + 1, sizes, device=place.device)
    wanted = plain(input, k, dim)
    output = place.package.keep_first(input, k, dim)
    assert_bitwise(output, wanted)
    assert (rows_of(input, k, dim) is not None) == (name in FUSED)
    assert launches == ["new"] * (name in FUSED)
    if name in FUSED:
        assert output.stride() == input.stride()


@pytest.mark.parametrize("k", [math.nan, math.inf, -math.inf, 1e30, 2**62, -1, -(2**62), 0.999, 1.0])
def test_k_far_outside_keeps_all_or_none(place: SimpleNamespace, launches: list[str], k: float) -> None:
    input = torch.randn(3, 33, device=place.device)
    k_there = torch.tensor(k, device=place.device)
    assert_bitwise(place.package.selection.select(input, k_there, 1), plain(input, k_there))
    assert launches == ["new"]


def test_the_tail_is_not_read(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rest of the 16 bytes in which k lies is; in place nothing else is read, and only the tail is written."""
    from triton.runtime.interpreter import interpreter_builder as builder

    read, written = [], []
    load, store = builder.create_masked_load, builder.create_masked_store

    def load_seen(pointers: Any, mask: Any, *rest: Any) -> Any:
        read.append(int(mask.data.sum()) if mask.data.ndim == 2 else 0)
        return load(pointers, mask, *rest)

    def store_seen(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        written.append(int(mask.data.sum()))
        return store(pointers, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", load_seen)
    monkeypatch.setattr(builder, "create_masked_store", store_seen)
    k = torch.tensor([0, 1, 4, 5, 2999, 3000])[:, None]
    input = torch.randn(6, 3000)
    launch, rows = interpreted.selection.triton_kernel.launch, rows_of(input, k, 1)
    launch(input, torch.empty_like(input), k, 1, rows)
    assert (sum(read), sum(written)) == (0 + 4 + 4 + 8 + 3000 + 3000, input.numel())
    read.clear(), written.clear()
    launch(input, input, k, 1, rows)
    assert (sum(read), sum(written)) == (0 + 4 + 0 + 4 + 4 + 0, 3000 + 3000 + 2996 + 2996 + 4 + 0)


@pytest.mark.parametrize("shape", [(2, 2**30 + 4096), (1, 2**31 - 100), (1, 2**31 + 4096), (2**25 + 64, 64)])
def test_places_up_to_and_above_2_to_the_31(
    interpreted: ModuleType, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tensor of 2 GiB, most of it never touched, the last tile alone is computed."""
    from triton.runtime.interpreter import GridExecutor, interpreter_builder

    kernels = interpreted.selection.triton_kernel
    whole = kernels._keep_rows

    class Last:
        def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
            monkeypatch.setattr(interpreter_builder, "set_grid_idx", lambda *_: None)
            monkeypatch.setattr(interpreter_builder, "grid_idx", (grid[0] - 1, 0, 0), raising=False)
            return whole[(1,)]

    monkeypatch.setattr(kernels, "_keep_rows", Last())
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)  # it would copy all memory onto itself
    input = torch.empty(shape, dtype=torch.int8)
    last = input.view(-1)[-2048:]
    last.fill_(1)
    k = torch.tensor(shape[1] - 10)
    kernels.launch(input, input, k, 1, rows_of(input, k, 1))
    assert not last.view(-1, min(shape[1], 2048))[:, -10:].any()
    assert last.view(-1, min(shape[1], 2048))[:, :-10].all()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
def test_nothing_is_launched_for_nothing(place: SimpleNamespace, launches: list[str], shape: tuple[int, ...]) -> None:
    input, k = torch.empty(shape, device=place.device), torch.tensor(2, device=place.device)
    assert place.package.keep_first(input, k).shape == shape
    assert place.package.selection.select(input, k, len(shape) - 1, inplace=True) is input
    assert launches == []


def test_only_k_is_saved_and_a_nan_in_the_gradient_of_the_tail_leaves_no_trace(
    place: SimpleNamespace, launches: list[str]
) -> None:
    k = torch.tensor([[0], [2], [5]], device=place.device)
    input = torch.randn(3, 5, dtype=torch.float64, device=place.device, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        output = place.package.keep_first(input, k)
    assert [each.data_ptr() for each in saved] == [k.data_ptr()]
    (received,) = torch.autograd.grad(output, input, torch.full_like(output, math.nan))
    assert torch.equal(received.isnan(), plain(torch.ones_like(received), k).bool())
    assert launches == ["new"] * 2


def test_the_kernel_on_a_cpu_says_what_to_call_instead() -> None:
    kernels = pytest.importorskip("taildropout.selection.triton_kernel", reason="needs Triton: pip install triton, on Linux")
    input, k = torch.randn(4, 8), torch.tensor(3)
    with pytest.raises(ValueError, match=r"input is on the CPU, but this kernel is for GPUs; call taildropout\.keep_first"):
        kernels.launch(input, input, k, 1, rows_of(input, k, 1))
