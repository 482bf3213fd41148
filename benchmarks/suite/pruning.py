"""How long does it take to prune every feed-forward block of a language model, and how much memory beyond the model?

The network is built like Llama, in plain torch: 8 blocks of 512 features and 1024 hidden ones, a vocabulary of 8000, 111 MiB in
float32. All blocks are cut to a quarter at once, with two sequences of 16 tokens as example inputs, on one thread.
"""

import resource
import sys
from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cases import Case, NotAvailable, WrongResult, feature, use_threads
from .subject import package

VOCABULARY, FEATURES, HIDDEN, BLOCKS, HEADS = 8000, 512, 1024, 8, 8
KEPT = HIDDEN // 4
INPUTS = (2, 16)
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of `getrusage`


class Prune:
    """How many seconds do all blocks take (goal: 6 at most), and how many times the model's size in memory (goal: 4 at most)?

    The memory is the peak beyond the memory of the model itself.
    """

    version = "1"

    def track_time_of_all_blocks(self) -> float:
        return pruned()[0]

    def track_memory_over_model(self) -> float:
        """Measure the peak of memory. asv runs each benchmark in its own process, so the peak is that of pruning."""
        return pruned()[1]

    track_time_of_all_blocks.unit = "seconds"  # type: ignore[attr-defined]
    track_memory_over_model.unit = "ratio"  # type: ignore[attr-defined]


def pruned() -> tuple[float, float]:
    """Prune the network; return the seconds, and the growth of the process's peak memory over the size of the model.

    Raises NotAvailable without torch-pruning, WrongResult if the pruned network differs.
    """
    module = package()
    prune: Callable[..., Any] = feature(module, "prune")
    feature(module, "load_pruned")  # earlier versions prune one layer at a time
    if find_spec("torch_pruning") is None:
        raise NotAvailable("torch-pruning is not installed")
    use_threads(Case("prune", INPUTS))
    torch.manual_seed(0)
    layer: Callable[[], nn.Module] = feature(module, "TailDropout")
    warm = Network(layer, vocabulary=20, features=8, hidden=8, blocks=1, heads=2)
    prune(warm, {"*": 2}, torch.randint(20, (2, 3)))  # its imports are not part of the measurement
    model, tokens = Network(layer), torch.randint(VOCABULARY, INPUTS)
    with torch.no_grad():
        model(tokens)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    before, start = peak(), perf_counter()
    smaller = prune(model, {"*": KEPT}, tokens)
    seconds, memory = perf_counter() - start, peak() - before
    check(model, smaller, tokens)
    return seconds, memory / size


def check(model: nn.Module, smaller: nn.Module, tokens: Tensor) -> None:
    """Raise WrongResult if the pruned network differs from the network at this width."""
    for module in model.eval().modules():
        set_k = getattr(module, "set_k", None)
        if set_k is not None:
            set_k(KEPT)
    with torch.no_grad():
        expected, found = model(tokens), smaller.eval()(tokens)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise WrongResult(
            f"the pruned network differs from the network at width {KEPT} by {float((found - expected).abs().max()):.3g}"
        )


def peak() -> int:
    """Return the peak of this process's resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


class Norm(nn.Module):
    """Divide by the root mean square of the features and scale each feature, as Llama does."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    """Attention and a gated feed-forward block with the layer on its hidden features, each with a residual connection."""

    def __init__(self, layer: Callable[[], nn.Module], features: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = Norm(features), Norm(features)
        self.attention = nn.ModuleList(nn.Linear(features, features, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(features, hidden, bias=False) for _ in range(2))
        self.down, self.dropout = nn.Linear(hidden, features, bias=False), layer()

    def forward(self, x: Tensor) -> Tensor:
        rows, time, features = x.shape
        normed = self.first(x)
        q, k, v = (product(normed).view(rows, time, self.heads, -1).transpose(1, 2) for product in list(self.attention)[:3])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention[3](mixed.transpose(1, 2).reshape(rows, time, features))
        normed = self.second(x)
        down: Tensor = self.down(self.dropout(F.silu(self.gate(normed)) * self.up(normed)))
        return x + down


class Network(nn.Module):
    """A small Llama."""

    def __init__(
        self,
        layer: Callable[[], nn.Module],
        vocabulary: int = VOCABULARY,
        features: int = FEATURES,
        hidden: int = HIDDEN,
        blocks: int = BLOCKS,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features)
        self.blocks = nn.Sequential(*(Block(layer, features, hidden, heads) for _ in range(blocks)))
        self.norm, self.head = Norm(features), nn.Linear(features, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return logits
