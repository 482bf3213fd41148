"""A small decoder as in Llama: norms, causal attention, residual connections, a gated FFN with a TailDropout."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taildropout import TailDropout


class FeedForward(nn.Module):
    """A gated feed-forward block; TailDropout reads what down_proj reads."""

    def __init__(self, dim: int, hidden: int, **options: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj, self.drop = nn.Linear(hidden, dim, bias=False), TailDropout(0.5, **options)

    def forward(self, input: Tensor) -> Tensor:
        return self.down_proj(self.drop(functional.silu(self.gate_proj(input)) * self.up_proj(input)))


class Block(nn.Module):
    """Attention (if `heads`) and a feed-forward block, each with a norm before and a residual connection around it."""

    def __init__(self, dim: int, hidden: int, heads: int = 2, **options: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(dim)
        self.mlp = FeedForward(dim, hidden, **options)
        if heads:
            self.before, self.qkv, self.out = nn.RMSNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, input: Tensor) -> Tensor:
        if self.heads:
            q, k, v = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.before(input)).chunk(3, -1)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            input = input + self.out(mixed.transpose(1, 2).flatten(2))
        return input + self.mlp(self.norm(input))


class Decoder(nn.Module):
    """Blocks on embedded tokens, and a head."""

    def __init__(self, layers: int = 2, dim: int = 8, hidden: int = 64, vocab: int = 11, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(Block(dim, hidden, **options) for _ in range(layers))
        self.head = nn.Linear(dim, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@dataclass
class Output:
    """What a language model returns, as an object."""

    loss: Tensor | None
    logits: Tensor


class OutputDict(OrderedDict[str, Any]):
    """What a language model returns, as a mapping that torch does not know, whose items are attributes too."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.__dict__[key] = value


class LanguageModel(nn.Module):
    """A decoder that takes keywords and computes its own loss, as those of transformers do."""

    def __init__(self, as_mapping: bool = False, **options: Any) -> None:
        super().__init__()
        self.decoder, self.as_mapping = Decoder(**options), as_mapping

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        logits = self.decoder(input_ids)
        loss = None
        if labels is not None:
            shifted = functional.pad(labels, (0, 1), value=-100)[:, 1:]
            loss = functional.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100, reduction="mean")
        return OutputDict(loss=loss, logits=logits) if self.as_mapping else Output(loss, logits)


def texts(sizes: tuple[int, ...] = (6, 6, 3), length: int = 7, vocab: int = 11) -> list[Tensor]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab, (size, length), generator=generator) for size in sizes]
