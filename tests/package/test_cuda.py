"""On a GPU, through the layer: the law, CUDA graphs, compiled modes, masks of forward and backward, launches."""

from collections.abc import Callable

import oracles
import pytest
import scipy.stats
import torch
from checks import Family, check, coincidences
from oracles import keep_first_at_once, pmf
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.suite import measure
from taildropout import TailDropout, keep_first, rate
from taildropout.distribution import exponential
from taildropout.selection import dispatch as selection

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SMALL, LARGE = (64, 300), (1024, 512)  # plain torch's, and the kernel's
SIZES = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])


@pytest.fixture(autouse=True)
def fuse_from_2_to_the_17(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tensors of a size that is quick to test use the kernel."""
    monkeypatch.setattr(selection, "FUSED_FROM", 2**17)


@pytest.fixture(name="triton")
def needs_triton() -> None:
    pytest.importorskip("triton", reason="needs Triton")


def ones(*shape: int, **options: object) -> Tensor:
    return torch.ones(shape, device="cuda", **options)


def widths(output: Tensor) -> Tensor:
    """Return `oracles.widths` as a flat tensor on the host."""
    return oracles.widths(output).flatten().cpu()


# ---- The law


@pytest.mark.distribution
@pytest.mark.parametrize("p", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("n", [3, 64, 4096])
def test_law_at_1e7_draws(p: float, n: int, family: Family) -> None:
    like, lam = torch.empty(0, device="cuda"), rate(p, n)
    first, second = (exponential(like, (5 * 10**6,), lam).floor().clamp(max=n).long().cpu() for _ in range(2))
    family.judge(f"cuda draw p={p} n={n}", check(first, second, p, n))


@pytest.mark.distribution
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("samples", "n"), [(200, 64), (10**5, 64), (10**5, 1000)])
def test_law_through_the_layer(samples: int, n: int, dtype: torch.dtype, family: Family) -> None:
    input, layers = ones(samples, n, dtype=dtype), [TailDropout(), TailDropout()]
    calls = 10**6 // samples
    drawn: list[list[Tensor]] = [[], []]
    for _ in range(calls):
        for layer, its in zip(layers, drawn, strict=True):
            its.append(widths(layer(input)))
    family.judge(f"cuda layer {samples}x{n} {dtype}", check(torch.cat(drawn[0]), torch.cat(drawn[1]), 0.5, n))


@pytest.mark.distribution
@pytest.mark.parametrize("source", ["eager", "compiled"])
def test_every_width_is_reachable_at_p_of_1e_6(source: str, family: Family) -> None:
    """At n = 65 536, of the some 200 small K of 1e8 draws hardly two coincide."""
    p, n, draws = 1e-6, 65536, 10**8
    like, found = torch.empty(0, device="cuda"), []
    if source == "eager":
        found = [exponential(like, (10**7,), rate(p, n)).floor().clamp(max=n) for _ in range(draws // 10**7)]
    else:
        layer = TailDropout(p)
        places = torch.arange(1.0, n + 1, device="cuda")
        drawn = torch.compile(lambda: layer(places.expand(10**5, n)).amax(1), fullgraph=True)
        found = [drawn() for _ in range(draws // 10**5)]
    small = torch.cat([k[k < n].long().cpu() for k in found])
    count = scipy.stats.binomtest(len(small), draws, 1 - pmf(p, n)[-1]).pvalue
    p_values = {"count": float(count), "coincide": coincidences(small, n)}
    distinct = len(small.unique())
    family.judge(f"cuda tiny p {source}", p_values, f"{distinct} distinct of {len(small)} small K")
    assert distinct >= 0.75 * len(small)


# ---- CUDA graphs


@pytest.mark.distribution
@SIZES
def test_a_graph_replayed_1000_times_draws_anew_each_time(shape: tuple[int, int], family: Family) -> None:
    layer, input = TailDropout(), ones(*shape)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            layer(input)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = layer(input)
    drawn = []
    for _ in range(1000):
        graph.replay()
        drawn.append((output != 0).sum(1))
    k = torch.stack(drawn).cpu()
    oracles.widths(output)
    assert len({tuple(each.tolist()) for each in k}) == 1000
    half = k.flatten()
    family.judge(f"cuda graph {shape}", check(half[: len(half) // 2], half[len(half) // 2 :], 0.5, shape[1]))


@pytest.mark.distribution
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
@SIZES
def test_compiled_modes_draw_the_law_and_keep_what_eager_keeps(mode: str, shape: tuple[int, int], family: Family) -> None:
    torch.compiler.reset()
    layer, input = TailDropout(), ones(*shape)
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    drawn = torch.cat([widths(compiled(input)) for _ in range(10**5 // shape[0])])
    half = len(drawn) // 2
    family.judge(f"cuda compiled {mode} {shape}", check(drawn[:half], drawn[half : 2 * half], 0.5, shape[1]))
    random = torch.randn(shape, device="cuda")
    for k in (0, 3, shape[1]):
        layer.set_k(k)
        assert torch.equal(compiled(random), keep_first_at_once(random, torch.tensor(k, device="cuda")))


def test_a_graph_of_a_training_step_is_captured() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(512, 512), TailDropout(), torch.nn.Linear(512, 8)).cuda()
    step = torch.cuda.make_graphed_callables(net, (torch.randn(1024, 512, device="cuda"),))
    for _ in range(3):
        step(torch.randn(1024, 512, device="cuda")).sum().backward()
    assert all(each.grad.isfinite().all() for each in net.parameters())


# ---- Masks, determinism


BODIES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "plain": lambda layer, x: layer(x * 1.0),
    "materialised transpose": lambda layer, x: layer(x * 1.0).t().contiguous(),
    "checkpoint": lambda layer, x: checkpoint(lambda y: layer(y * 1.0), x, use_reentrant=False),
    "checkpoint, transposed": lambda layer, x: checkpoint(lambda y: layer(y * 1.0).t().contiguous(), x, use_reentrant=False),
}


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead"])
@pytest.mark.parametrize("inside", BODIES)
@SIZES
def test_forward_and_backward_have_one_mask(mode: str | None, inside: str, shape: tuple[int, int]) -> None:
    """pytorch#198333 reports other masks after a materialised transpose, for CUDA since 2.13."""
    torch.compiler.reset()
    layer = TailDropout()
    body: Callable[[Tensor], Tensor] = lambda x: BODIES[inside](layer, x)  # noqa: E731
    call = body if mode is None else torch.compile(body, fullgraph=True, mode=mode)
    for _ in range(4):
        leaf = (torch.rand(shape, device="cuda") + 1).requires_grad_()
        output = call(leaf)
        (received,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
        kept = output.detach().clone() if output.shape == leaf.shape else output.detach().t().clone()
        assert torch.equal(kept, torch.where(received != 0, leaf, 0))
        oracles.widths(received)
        assert 0 < (received == 0).sum() < received.numel()


@SIZES
def test_one_seed_gives_one_result(shape: tuple[int, int]) -> None:
    layer, input = TailDropout(), torch.randn(shape, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            leaf = input.clone().requires_grad_()
            output = layer(leaf)
            found.append((output, *torch.autograd.grad(output.square().sum(), leaf)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    generator = torch.Generator("cuda").manual_seed(5)
    assert (exponential(input, (9,), 0.5, generator) > 0).all()


# ---- Launches and memory


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [512, 4096])
def test_launches(n: int, dtype: torch.dtype) -> None:
    """One forward and one backward; the draw is one more."""
    layer, input, sent = TailDropout(), *torch.randn(2, 1024, n, device="cuda", dtype=dtype)
    leaf = input.clone().requires_grad_()
    output = layer(leaf)
    for _ in range(3):
        layer(leaf)
        torch.autograd.grad(output, leaf, sent, retain_graph=True)
    assert measure.launches(lambda: layer(leaf)) == 2
    assert measure.launches(lambda: torch.autograd.grad(output, leaf, sent, retain_graph=True)) == 1
    layer.set_k(n // 3)
    layer(leaf)
    assert measure.launches(lambda: layer(leaf)) == 1
    assert measure.launches(lambda: keep_first(input, torch.full((1024, 1), 3, device="cuda"))) == 2  # and `full`
    with torch.no_grad():
        layer.inplace = True
        layer(input)
        assert measure.launches(lambda: layer(input)) == 1


def test_at_most_16_bytes_per_sample_are_saved() -> None:
    leaf = torch.randn(1024, 4096, device="cuda", requires_grad=True)
    layer = TailDropout()
    assert measure.saved_bytes(lambda: layer(leaf), [leaf]) <= 16 * 1024


@pytest.mark.usefixtures("triton")
def test_above_2_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 12 * 2**30:
        pytest.skip("needs 12 GiB of free memory on the GPU")
    for shape in ((3, 2**30), (2**26, 48), (1, 2**31 + 8)):
        input = torch.ones(shape, dtype=torch.int8, device="cuda")
        k = torch.full((shape[0], 1), shape[1] - 3, device="cuda")
        output = keep_first(input, k)
        assert int(output.sum(dtype=torch.int64)) == shape[0] * (shape[1] - 3)
        assert not output[:, -3:].any()
        del input, output


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_input_may_be_on_another_device_than_the_current_one() -> None:
    assert LARGE[0] * LARGE[1] >= selection.FUSED_FROM
    input = torch.randn(LARGE, device="cuda:1")
    assert torch.equal(keep_first(input, 5), keep_first_at_once(input, torch.tensor(5, device="cuda:1")))
