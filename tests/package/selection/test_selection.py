"""Every way of selecting the tail away: bitwise the oracle, layout kept, and little saved for backward."""

import itertools

import hypothesis.strategies as st
import oracles
import pytest
import torch
from hypothesis import example, given
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from taildropout import keep_first, tail_dropout
from taildropout.selection import dispatch as selection
from taildropout.selection import select

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


DTYPES = [*FLOATS, torch.complex64, torch.complex128]


SMALL, LARGE = (6, 9), (130, 520)  # below and above the size from which k alone is saved


SIZES = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])


WAYS = pytest.mark.parametrize("way", ["rows in C", "rows in torch", "masked_fill"])


def go(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make inputs of every size take the same path through the dispatcher."""
    monkeypatch.setattr(selection, "SAVE_ONLY_K_FROM", 10**9 if way == "masked_fill" else 0)
    if way == "rows in torch":
        monkeypatch.setattr(selection, "_rows", None)
    elif way == "rows in C" and selection._rows is None:
        pytest.skip("the package was built without a C compiler")


def bits(input: Tensor) -> Tensor:
    """Return the bytes of a tensor: they are equal for equal NaNs, and differ for 0 and −0."""
    input = input.detach().resolve_conj().resolve_neg().contiguous()
    return input.view(torch.uint8) if input.numel() else input


def assert_bitwise(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert torch.equal(bits(got), bits(wanted))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Draw an input of any layout, a k that broadcasts to it, and the dim of features."""
    ndim = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(0, 5), min_size=ndim, max_size=ndim))
    stored = draw(st.permutations(range(ndim)))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=ndim, max_size=ndim))
    dtype = draw(st.sampled_from([*DTYPES, torch.int64, torch.bool]))
    dim = draw(st.integers(-ndim, ndim - 1))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    input = torch.randn([shape[at] * steps[at] for at in stored], generator=seed).mul(4).to(dtype)
    input = input.permute([stored.index(at) for at in range(ndim)])
    input = input[tuple(slice(None, None, steps[at]) for at in range(ndim))]
    assert list(input.shape) == shape
    if draw(st.booleans()):  # a k for some of the other dims
        varies = draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim))
        sizes = [size if own and at != dim % ndim else 1 for at, (size, own) in enumerate(zip(shape, varies, strict=True))]
        k = torch.randint(-2, 9, sizes, generator=seed)
    else:
        k = torch.tensor(draw(st.integers(-2, 9)))
    return input, k.to(draw(st.sampled_from([torch.int64, torch.int8, torch.float32]))), dim


@WAYS
def test_every_way_of_selecting_is_bitwise_the_oracle(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(way, monkeypatch)

    @given(problems())
    @example((torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2), torch.tensor([[[2, 0, 4]]]), 1))
    @example((torch.arange(24.0).reshape(2, 3, 4), torch.tensor(3.0), 0))
    @example((torch.arange(12.0).reshape(3, 4), torch.tensor([[1, 0, 3, 2]]), 0))
    def check(problem: tuple[Tensor, Tensor, int]) -> None:
        input, k, dim = problem
        assert_bitwise(keep_first(input, k, dim), oracles.keep_first(input, k, dim))

    check()


def test_c_zeroes_the_tail_in_place_or_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    go("rows in C", monkeypatch)
    done: set[bool] = set()

    @given(problems())
    def check(problem: tuple[Tensor, Tensor, int]) -> None:
        input, k, dim = problem
        before, version = input.clone(), input._version
        zeroed = selection.zero_tail(input, k, dim % input.dim())
        done.add(zeroed)
        assert_bitwise(input, oracles.keep_first(before, k, dim) if zeroed else before)
        assert input._version == version + zeroed

    check()
    assert done == {True, False}
    leaf = torch.ones(2, 3, requires_grad=True)
    assert not selection.zero_tail(leaf, torch.tensor(1), 1)
    with torch.no_grad():
        assert selection.zero_tail(leaf, torch.tensor(1), 1)
    assert leaf.tolist() == [[1, 0, 0]] * 2
    with torch.inference_mode():
        assert not selection.zero_tail(leaf, torch.tensor(0), 1)


@WAYS
def test_what_goes_in_and_out_of_backward_is_bitwise_the_oracle(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(way, monkeypatch)

    @given(problems(), st.booleans())
    def check(problem: tuple[Tensor, Tensor, int], own_layout: bool) -> None:
        input, k, dim = problem
        if not (input.is_floating_point() or input.is_complex()):
            input = input.float()
        output = keep_first(input.detach().requires_grad_(), k, dim)
        sent = torch.randn_like(input) if own_layout else torch.randn(input.shape).to(input.dtype)
        (received,) = torch.autograd.grad(output, [leaf_of(output)], sent)
        assert_bitwise(received, oracles.keep_first(sent, k, dim))

    def leaf_of(output: Tensor) -> Tensor:
        node = output.grad_fn
        while node.next_functions:
            node = next(below for below, _ in node.next_functions if below is not None)
        return node.variable

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@SIZES
def test_every_width_of_every_dtype(shape: tuple[int, int], dtype: torch.dtype) -> None:
    input = torch.randn(shape).to(dtype)
    n = shape[1]
    for k in {0, 1, 2, n // 2, n - 1, n, n + 1, 10 * n}:
        wanted = torch.cat([input[:, :k], torch.zeros_like(input[:, k:])], 1)
        assert_bitwise(keep_first(input, k), wanted)
        assert_bitwise(keep_first(input, torch.full((shape[0], 1), k)), wanted)
        assert_bitwise(keep_first(input.t(), k, 0), wanted.t())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.int64])
@SIZES
def test_k_may_have_any_dtype(shape: tuple[int, int], dtype: torch.dtype) -> None:
    k = torch.randint(0, 120, (shape[0], 1)).to(dtype)
    assert torch.equal(oracles.widths(keep_first(torch.ones(shape), k)), k.flatten().long().clamp(max=shape[1]))


@pytest.mark.parametrize("k", [float("inf"), 1e30, 2**62, float("-inf"), -(2**62), float("nan"), 3.999, -0.5])
@SIZES
def test_k_far_outside_keeps_all_or_none(shape: tuple[int, int], k: float) -> None:
    wanted = sum(j <= k for j in range(1, shape[1] + 1))
    for given_k in (k, torch.full((shape[0], 1), k)):
        assert (oracles.widths(keep_first(torch.ones(shape), given_k)) == wanted).all()


LAYOUTS = {
    "channels last": lambda: torch.randn(4, 40, 24, 24).contiguous(memory_format=torch.channels_last),
    "small channels last": lambda: torch.randn(2, 5, 3, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(520, 130).t(),
    "small transposed": lambda: torch.randn(9, 6).t(),
    "permuted": lambda: torch.randn(20, 80, 50).permute(2, 0, 1),
    "channels last 3d": lambda: torch.randn(2, 40, 4, 16, 16).contiguous(memory_format=torch.channels_last_3d),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_dense_layouts_are_kept(name: str) -> None:
    input = LAYOUTS[name]()
    for dim, per_sample in itertools.product(range(input.dim()), (False, True)):
        sizes = [input.shape[0] if at == 0 and dim != 0 else 1 for at in range(input.dim())]
        k = torch.randint(0, input.shape[dim] + 1, sizes) if per_sample else 2
        output = keep_first(input, k, dim)
        assert output.stride() == input.stride()
        random = tail_dropout(input, 0.5, batch_dim=(dim + 1) % input.dim(), dropout_dim=dim)
        assert random.stride() == input.stride()
        assert oracles.is_prefix(random != 0, dim)


@SIZES
@pytest.mark.parametrize("step", [2, 3])
def test_strided_and_expanded_input(shape: tuple[int, int], step: int) -> None:
    base = torch.randn(shape[0], shape[1] * step)
    k = torch.randint(0, shape[1] + 1, (shape[0], 1))
    columns = base[:, ::step]
    assert_bitwise(keep_first(columns, k), keep_first(columns.contiguous(), k))
    expanded = base[:1, : shape[1]].expand(shape)
    assert_bitwise(keep_first(expanded, k), keep_first(expanded.contiguous(), k))
    assert columns.stride() == base[:, ::step].stride()
    tail_dropout(columns, 0.999, inplace=True)
    assert (base[:, ::step] == 0).any()
    assert not (base[:, 1::step] == 0).any()


def measured(input: Tensor, **options: object) -> int:
    """Bytes that tail_dropout keeps for backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    source = input * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = tail_dropout(source, 0.5, **options)
    assert output.requires_grad
    assert kept  # the hooks see it
    return sum(kept.values())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_at_most_16_bytes_per_sample_are_saved(dtype: torch.dtype, inplace: bool) -> None:
    cases = [((512, 512), 0, 512), ((64, 128, 64), [0, 1], 64 * 128), ((64, 128, 64), 0, 64), ((64, 128, 64), (), 1)]
    for shape, batch_dim, samples in cases:
        leaf = torch.ones(shape, dtype=dtype, requires_grad=True)
        assert measured(leaf, batch_dim=batch_dim, inplace=inplace) <= 16 * samples
    images = torch.ones(8, 64, 32, 32, dtype=dtype, requires_grad=True)
    assert measured(images, dropout_dim=1, inplace=inplace) <= 16 * 8


def test_the_size_from_which_k_alone_is_saved_is_at_most_2_to_the_18() -> None:
    assert selection.SAVE_ONLY_K_FROM <= 2**18


def test_tensors_without_memory_of_their_own_are_never_read() -> None:
    """Code that copies rows by address would end the process."""
    input = torch.ones(LARGE)
    assert not keep_first(torch._efficientzerotensor(LARGE), 3).any()
    for sizes in ((), (LARGE[0], 1)):
        with FakeTensorMode():
            fake = torch.zeros(sizes)
        for k in (torch.zeros(sizes, device="meta"), fake):
            try:
                kept = keep_first(input, k)
            except (RuntimeError, AssertionError):
                continue
            assert kept.is_meta or isinstance(kept, FakeTensor)


@pytest.mark.parametrize("threads", [2, 3, 64, 100])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 1021])
@pytest.mark.parametrize("inplace", [False, True])
def test_any_number_of_threads_gives_the_same(threads: int, rows: int, inplace: bool) -> None:
    input = torch.randn(rows, 2**22 // rows + 1)  # 16 MB, for which several threads are started
    k = torch.randint(0, input.shape[1] + 1, (rows, 1))
    wanted = torch.where(torch.arange(1, input.shape[1] + 1) <= k, input, 0)
    torch.set_num_threads(threads)
    assert_bitwise(select(input.clone(), k, 1, inplace), wanted)


@pytest.mark.skipif(selection._rows is None, reason="the package was built without a C compiler")
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("width", [1, 2, 15, 31, 63, 64, 65, 127, 128, 129, 191, 600])
def test_c_writes_every_byte_of_its_rows_and_none_around_them(width: int, inplace: bool) -> None:
    """Rows of `width` features of a byte: blocks of bytes are copied, and k may end anywhere in one, also in the last row."""
    k = torch.randperm(width + 3, generator=torch.Generator().manual_seed(width)) - 0.5
    before = torch.randint(1, 255, (len(k) + 2, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    written = before.clone() if inplace else torch.full_like(before, 255)
    for rows in (len(k), 1):
        after = written.clone()
        source = after if inplace else before
        selection._rows.keep_rows(source[1:].data_ptr(), after[1:].data_ptr(), k.data_ptr(), True, rows, width, 1, 1)
        wanted = written.clone()
        wanted[1 : rows + 1] = before[1 : rows + 1].where(torch.arange(1, width + 1) <= k[:rows, None], 0)
        assert torch.equal(after, wanted)
