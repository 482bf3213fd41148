"""K as the layer draws it follows its exact law: the draw by itself, and every path through the layer.

All cells are one family with a family-wise false-alarm rate of `checks.ALPHA`, 1e-4; see `checks`.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from checks import ALPHA, SIZE, Family, Law, check, coincidences, holm, z_of_mean
from oracles import keep_first, pmf, widths
from torch import Tensor, nn

from taildropout import TailDropout, rate, tail_dropout
from taildropout.distribution import exponential, exponential_from_uniforms
from taildropout.selection.dispatch import SAVE_ONLY_K_FROM

pytestmark = pytest.mark.distribution

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}


def marked(quick: Iterable[tuple[Any, ...]], full: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return the parameters of quick cells, then of slow ones; a cell's last parameter is its size."""
    return [*quick, *(pytest.param(*each, marks=pytest.mark.slow) for each in full)]


# ---- The draw of K by itself


def _two_uniforms(like: Tensor, scale: Tensor | float, n: int, samples: int) -> Tensor:
    return exponential_from_uniforms(like, (samples,), scale).floor().clamp(max=n)


def draw(source: str, p: float, n: int, samples: int) -> Tensor:
    """K as eager code on a CPU draws it, as accelerators do, and as compiled code does."""
    like, lam = torch.empty(0), rate(p, n)
    if source == "exponential":
        return exponential(like, (samples,), lam).floor().clamp(max=n).long()
    if source == "uniforms":
        return _two_uniforms(like, 1 / lam, n, samples).long()
    compiled = torch.compile(_two_uniforms, fullgraph=True)
    return compiled(like, torch.tensor(1 / lam), torch.tensor(float(n)), samples).long()


SOURCES = ("exponential", "uniforms", "compiled")
DRAWS = marked(
    product(SOURCES, (1e-5, 0.5, 0.999), (1, 64, 65536), (10**6,)),
    product(SOURCES, (1e-5, 0.001, 0.1, 0.5, 0.9, 0.999), (1, 2, 3, 10, 64, 512, 4096, 65536), (10**7,)),
)


def judge(family: Family, cell: str, first: Tensor, second: Tensor, p: float, n: int) -> None:
    """Check two sequences of K and record them with the share dropped."""
    p_values = check(first, second, p, n)
    counts = torch.bincount(torch.cat([first, second]), minlength=n + 1).numpy()
    dropped = 1 - counts @ np.arange(n + 1) / counts.sum() / n
    family.judge(cell, p_values, f"{counts.sum():.0e} drop {dropped:.6f} z {z_of_mean(counts, Law(p, n)):+.1f}")


@pytest.mark.parametrize(("source", "p", "n", "samples"), DRAWS)
def test_draw(source: str, p: float, n: int, samples: int, family: Family, request: pytest.FixtureRequest) -> None:
    """The draw of K follows the exact law, without a layer around it."""
    if source == "compiled":
        request.getfixturevalue("compiler")
    first, second = (draw(source, p, n, samples // 2) for _ in range(2))
    judge(family, f"draw {source} p={p} n={n}", first, second, p, n)


TINY = marked(product(SOURCES, (1e-4,), (10**7,)), product(SOURCES, (1e-6,), (10**8,)))


@pytest.mark.parametrize(("source", "p", "draws"), TINY)
def test_every_width_is_reachable_at_tiny_p(
    source: str, p: float, draws: int, family: Family, request: pytest.FixtureRequest
) -> None:
    """At n = 65 536, hardly two of the some 200 small K of 1e8 draws at p = 1e-6 coincide: 150 or more are distinct."""
    if source == "compiled":
        request.getfixturevalue("compiler")
    n = 65536
    chunks = (draw(source, p, n, 10**7) for _ in range(draws // 10**7))
    small = torch.cat([k[k < n] for k in chunks])
    count = scipy.stats.binomtest(len(small), draws, 1 - pmf(p, n)[-1]).pvalue
    distinct = len(small.unique())
    found = {"count": float(count), "coincide": coincidences(small, n)}
    family.judge(f"tiny p {source} p={p} n={n}", found, f"{distinct} distinct of {len(small)} small K")
    assert distinct >= 0.75 * len(small)


# ---- Through the layer


def through(layers: list[Callable[..., Any]], shape: tuple[int, ...], elements: int, dtype: torch.dtype) -> list[Tensor]:
    """K of every sample, from calls of two layers in turn on ones of this shape, until all have had `elements` together."""
    ones = torch.ones(shape, dtype=dtype)
    calls = max(1, round(elements / ones.numel() / len(layers)))
    found: list[list[Tensor]] = [[] for _ in layers]
    for _ in range(calls):
        for layer, its in zip(layers, found, strict=True):
            its.append(widths(layer(ones)).flatten())
    return [torch.cat(its) for its in found]


def rows(path: str, n: int, elements: int) -> int:
    """Return the number of samples of n features for which a call takes this path through the layer."""
    return (SAVE_ONLY_K_FROM - 1) // n if path == "small" else min(2_000_000, elements // 2) // n


PATHS = ("small", "large")
LAYERS = marked(
    [
        *product(PATHS, (0.5,), (1, 3, 64, 512), ("bf16", "f32"), (4 * 10**6,)),
        *product(PATHS, (0.001,), (64,), ("f16", "f64"), (4 * 10**6,)),
        *product(("compiled",), (0.001, 0.5), (3, 64), ("f32",), (4 * 10**6,)),
        *product(("compiled",), (0.5,), (512,), ("bf16",), (4 * 10**6,)),
    ],
    [
        *product(PATHS, (0.001, 0.5, 0.999), (1, 3, 64, 4096), DTYPES, (2 * 10**7,)),
        *product(("compiled",), (0.001, 0.5, 0.999), (3, 64, 4096), ("f32",), (2 * 10**7,)),
        *product(("compiled",), (0.001, 0.5, 0.999), (64,), ("bf16",), (2 * 10**7,)),
    ],
)


@pytest.mark.parametrize(("path", "p", "n", "dtype", "elements"), LAYERS)
def test_layer(path: str, p: float, n: int, dtype: str, elements: int, family: Family, request: pytest.FixtureRequest) -> None:
    """Each sample's kept features are a prefix, of a width that follows the exact law, in every dtype and code path."""
    layers: list[Callable[..., Any]] = [TailDropout(p), TailDropout(p)]
    if path == "compiled":
        request.getfixturevalue("compiler")
        layers = [torch.compile(layer, fullgraph=True) for layer in layers]
    first, second = through(layers, (rows(path, n, elements), n), elements, DTYPES[dtype])
    judge(family, f"layer {path} p={p} n={n} {dtype}", first, second, p, n)


TOKENS = marked(product((30, 100), (0.001, 0.5), (4 * 10**6,)), product((30, 100), (0.001, 0.5, 0.999), (2 * 10**7,)))


@pytest.mark.parametrize(("side", "p", "elements"), TOKENS)
def test_layer_with_two_batch_dims(side: int, p: float, elements: int, family: Family) -> None:
    """With batch_dim=[0, 1] every index of both dims draws its own K, in small and in large inputs."""
    layers = [TailDropout(p, batch_dim=[0, 1]), TailDropout(p, batch_dim=[0, 1])]
    first, second = through(layers, (side, side, 64), elements, torch.float32)
    judge(family, f"layer batch_dim=[0, 1] p={p} n=64 side={side}", first, second, p, 64)


WHOLES = marked(product((0.5,), (10_000,)), product((0.001, 0.5, 0.999), (100_000,)))


@pytest.mark.parametrize(("p", "calls"), WHOLES)
def test_layer_with_one_k_for_the_whole_input(p: float, calls: int, family: Family) -> None:
    """With batch_dim=() a call draws one K, which all rows share."""
    layers = [TailDropout(p, batch_dim=()), TailDropout(p, batch_dim=())]
    ones = torch.ones(2, 64)
    outputs = torch.stack([layers[call % 2](ones) for call in range(calls)])
    k = widths(outputs)
    assert torch.equal(k[:, 0], k[:, 1])
    judge(family, f"layer batch_dim=() p={p} n=64", k[::2, 0], k[1::2, 0], p, 64)


@pytest.mark.parametrize("samples", [15, 1000])
def test_dtype_of_the_input_does_not_change_the_draw(samples: int) -> None:
    """From one seed, K is the same in every dtype, since no dtype of the input touches it."""
    drawn = []
    for dtype in DTYPES.values():
        torch.manual_seed(1)
        drawn.append(widths(TailDropout()(torch.ones(samples, 4096, dtype=dtype))))
    assert len(drawn[0].unique()) > 5
    assert all(torch.equal(each, drawn[0]) for each in drawn)


# ---- What it is for


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (5, 0.1), (16, 0.5), (16, 0.9)])
@pytest.mark.parametrize("samples", [64, 100_000])
def test_gradient_is_that_of_the_expected_loss(n: int, p: float, samples: int, family: Family) -> None:
    """The mean sampled gradient is Σ P(K = k) ∇L_k: training minimises the expected loss over widths."""
    calls = max(1, 100_000 // samples)
    torch.manual_seed(n)
    first, second = torch.randn(n, 3, dtype=torch.float64), torch.randn(2, n, dtype=torch.float64)
    input, target = torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)

    def gradients(drop: Callable[[Tensor], Tensor], rows: int) -> Tensor:
        """Return the flattened gradients by both weights of the mean loss over rows that differ only in k."""
        weights = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        hidden = drop(nn.functional.softplus(weights[0] @ input).expand(rows, n))
        loss = (torch.tanh(hidden @ weights[1].T) - target).square().sum(1).mean()
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, weights)])

    def kept(k: int) -> Callable[[Tensor], Tensor]:
        stays = keep_first(torch.ones(1, n, dtype=torch.float64), k)
        return lambda hidden: hidden * stays

    weight = torch.from_numpy(pmf(p, n))[:, None]
    each = torch.stack([gradients(kept(k), 1) for k in range(n + 1)])
    expected = (weight * each).sum(0)
    error = ((weight * (each - expected) ** 2).sum(0) / (samples * calls)).sqrt()
    sampled = torch.stack([gradients(lambda hidden: tail_dropout(hidden, p), samples) for _ in range(calls)]).mean(0)
    z = ((sampled - expected) / error)[error > 0]
    assert torch.allclose(sampled[error == 0], expected[error == 0])
    # Bonferroni over the components, which are far from independent.
    least = 2 * scipy.stats.norm.sf(z.abs().max().item()) * len(z)
    family.judge(f"gradient p={p} n={n} rows={samples}", {"mean": min(1.0, float(least))}, f"max |z| {z.abs().max():.1f}")


def test_holm(family: Family) -> None:
    """The family as a whole: of all cells that ran, Holm rejects none at the family-wise rate of 1e-4."""
    if not family.p_values:
        pytest.skip("no statistical cell ran; run the whole file")
    assert 5 * sum(map(len, (DRAWS, TINY, LAYERS, TOKENS, WHOLES))) + 20 <= SIZE  # what is declared holds the whole family
    assert len(family.p_values) <= SIZE
    assert holm(family.p_values, ALPHA, SIZE) == []
