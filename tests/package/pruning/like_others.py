"""Small networks in plain torch that are built like those of other libraries."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from taildropout import TailDropout


class Conv1D(nn.Module):
    """A Linear with its weight transposed, as in the GPT-2 of Hugging Face."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.randn(nf) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Attention(nn.Module):
    """Heads out of one product, as in GPT-2; with a cache, keys and values are put behind those of earlier calls (none)."""

    def __init__(self, size: int, heads: int, cache: bool) -> None:
        super().__init__()
        self.heads, self.cache = heads, cache
        self.c_attn, self.c_proj = Conv1D(3 * size, size), Conv1D(size, size)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).split(x.shape[-1], dim=2)
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        if self.cache:
            k, v = (torch.cat([torch.empty(0, dtype=part.dtype), part], dim=-2) for part in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(x.shape).contiguous())


class Gpt(nn.Module):
    """GPT-2 of Hugging Face, small; its config says the hidden size by n_inner, or by None for four times n_embd."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config, size = config, config.n_embd
        hidden = config.n_inner or 4 * size
        self.wte, self.wpe = nn.Embedding(30, size), nn.Embedding(9, size)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(size),
                    "attn": Attention(size, 2, config.use_cache),
                    "ln_2": nn.LayerNorm(size),
                    "c_fc": Conv1D(hidden, size),
                    "drop": TailDropout(0.5, (0, 1)),
                    "c_proj": Conv1D(size, hidden),
                }
            )
            for _ in range(config.n_layer)
        )
        self.ln_f, self.lm_head = nn.LayerNorm(size), nn.Linear(size, 30, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1]))
        for block in self.h:
            x = x + block["attn"](block["ln_1"](x))
            x = x + block["c_proj"](block["drop"](nn.functional.gelu(block["c_fc"](block["ln_2"](x)))))
        return {"logits": self.lm_head(self.ln_f(x))}


def gpt(n_layer: int = 1, *, use_cache: bool = False, n_inner: int | None = None, n_embd: int = 8) -> Gpt:
    return Gpt(SimpleNamespace(n_embd=n_embd, n_layer=n_layer, n_inner=n_inner, use_cache=use_cache))


class Experts(nn.Module):
    """A mixture of experts: every token goes to the one that a router prefers."""

    def __init__(self, activation: type[nn.Module] = nn.GELU, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(5, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 8), activation(), TailDropout(), nn.Linear(8, 5)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).max(-1)
        output = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            here = (chosen == number).nonzero().flatten()
            output.index_add_(0, here, expert(x[here]) * weight[here, None])
        return output


class OwnLinear(nn.Module):
    """A Linear that torch-pruning does not know."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel
