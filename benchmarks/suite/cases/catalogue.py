"""All cases by name: a selection, not a product. Only append to it, because asv's history is keyed by name.

A name is device (none: the CPU), shape or model, dtype, direction, then anything unusual: `1024x512-bf16-train`.
"""

from typing import Any

from .case import Case


def _layers() -> list[Case]:
    tiny, small, medium, large = (8, 16), (128, 256), (1024, 512), (8192, 768)
    sequence: dict[str, Any] = {"shape": (64, 128, 768), "batch_dim": (0, 1)}
    images: dict[str, Any] = {"shape": (32, 64, 56, 56), "dropout_dim": 1}
    compiled: dict[str, Any] = {"mode": "default"}
    return [
        Case("8x16-f32-fwd", tiny, quick=True, goal=(0.9, None)),
        Case("8x16-f32-train", tiny, direction="train", quick=True, goal=(1.0, None)),
        Case("8x16-f32-eval", tiny, direction="eval"),
        Case("8x16-f32-set_k", tiny, direction="set_k"),
        Case("8x16-bf16-train", tiny, "bf16", "train"),
        Case("128x256-f32-fwd", small),
        Case("128x256-f32-train", small, direction="train"),
        Case("1024x512-f32-fwd", medium),
        Case("1024x512-f32-train", medium, direction="train", quick=True, goal=(0.08, 2.2)),
        Case("1024x512-f32-train-p.001", medium, direction="train", p=0.001, goal=(0.08, None)),
        Case("1024x512-f32-set_k", medium, direction="set_k"),
        Case("1024x512-bf16-fwd", medium, "bf16"),
        Case("1024x512-bf16-train", medium, "bf16", "train", quick=True, goal=(0.05, 2.2)),
        Case("8192x768-f32-fwd", large),
        Case("8192x768-f32-train", large, direction="train", quick=True, goal=(0.08, 2.2)),
        Case("8192x768-bf16-train", large, "bf16", "train", goal=(0.05, 2.2)),
        Case("64x128x768-f32-fwd", **sequence),
        Case("64x128x768-f32-train", direction="train", **sequence, goal=(0.08, 2.2)),
        Case("64x128x768-bf16-train", dtype="bf16", direction="train", **sequence, goal=(0.05, 2.2)),
        Case("32x64x56x56-f32-fwd", **images),
        Case("32x64x56x56-f32-train", direction="train", **images, goal=(0.08, 2.2)),
        Case("8x16-f32-fwd-compiled", tiny, **compiled),
        Case("1024x512-f32-fwd-compiled", medium, **compiled, quick=True, goal=(None, 1.1)),
        Case("1024x512-bf16-fwd-compiled", medium, "bf16", **compiled, quick=True, goal=(None, 1.3)),
        Case("1024x512-f32-train-compiled", medium, direction="train", **compiled),
        Case("1024x512-f32-set_k-compiled", medium, direction="set_k", **compiled),
        Case("8192x768-f32-fwd-compiled", large, **compiled, goal=(None, 1.1)),
    ]


def _models() -> list[Case]:
    train: dict[str, Any] = {"direction": "train"}
    step: dict[str, Any] = {"direction": "train", "threads": None}
    feedforward: dict[str, Any] = {"direction": "train", "model": "feedforward", "threads": 2}
    return [
        Case("block-f32-train", (1024, 512), model="block", **train),
        Case("block-f32-train-compiled", (1024, 512), model="block", mode="default", quick=True, **train, goal=(None, 1.02)),
        Case("mlp-f32-step", (512, 256), model="mlp", **step),
        Case("conv-f32-step", (32, 16, 32, 32), model="conv", dropout_dim=1, **step),
        Case("transformer-f32-step", (16, 64, 256), model="transformer", batch_dim=(0, 1), **step),
        Case("ddp-2-gloo-f32-step", (256, 256), model="ddp", **train),
        Case("feedforward-4096x1024-f32-train", (4096, 1024), **feedforward, goal=(None, 0.58)),
        Case("feedforward-512x1024-f32-train", (512, 1024), **feedforward, quick=True, goal=(None, 0.70)),
        Case("feedforward-512x1024-f32-train-p.001", (512, 1024), p=0.001, **feedforward),
        Case("feedforward-4096x1024-f32-train-compiled", (4096, 1024), mode="default", **feedforward, goal=(None, 0.62)),
        Case("feedforward-512x1024-f32-train-compiled", (512, 1024), mode="default", **feedforward, goal=(None, 0.72)),
        Case("gated-512x1024-f32-train", (512, 1024), **{**feedforward, "model": "gated"}),
    ]


def _cuda() -> list[Case]:
    gpu: dict[str, Any] = {"device": "cuda"}
    train: dict[str, Any] = {"device": "cuda", "direction": "train"}
    matrix, tokens = (16384, 4096), (8, 2048, 4096)  # larger than the cache: 256 MiB each in float32
    return [
        Case("cuda-8x16-f32-fwd", (8, 16), **gpu, quick=True, goal=(1.2, None)),
        Case("cuda-8x16-f32-train", (8, 16), **train, goal=(1.2, None)),
        Case("cuda-8x16-f32-fwd-graph", (8, 16), mode="reduce-overhead", **gpu, goal=(1.0, None)),
        Case("cuda-1024x512-f32-train", (1024, 512), **train, quick=True),
        Case("cuda-8192x768-bf16-train", (8192, 768), "bf16", **train),
        Case("cuda-64x128x768-f32-train", (64, 128, 768), batch_dim=(0, 1), **train),
        Case("cuda-32x64x56x56-f32-train", (32, 64, 56, 56), dropout_dim=1, **train),
        Case("cuda-16384x4096-f32-fwd", matrix, **gpu, quick=True, goal=(None, 0.8)),
        Case("cuda-16384x4096-f32-train", matrix, **train, quick=True, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-train-p.001", matrix, p=0.001, **train, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-set_k", matrix, device="cuda", direction="set_k"),
        Case("cuda-16384x4096-bf16-fwd", matrix, "bf16", **gpu, goal=(None, 0.8)),
        Case("cuda-16384x4096-bf16-train", matrix, "bf16", **train, quick=True, goal=(0.6, None)),
        Case("cuda-16384x4096-f16-train", matrix, "f16", **train, goal=(0.6, None)),
        Case("cuda-8x2048x4096-bf16-train", tokens, "bf16", batch_dim=(0, 1), **train, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-fwd-compiled", matrix, mode="default", **gpu),
        Case("cuda-16384x4096-bf16-train-compiled", matrix, "bf16", mode="default", **train),
        Case("cuda-16384x4096-f32-fwd-autotune", matrix, mode="max-autotune", **gpu),
        Case("cuda-block-bf16-train-compiled", (8192, 2048), "bf16", model="block", mode="default", **train, goal=(None, 1.02)),
        Case("cuda-mlp-f32-step", (4096, 1024), model="mlp", **train),
        Case("cuda-data-parallel-f32-step", (1024, 1024), model="data_parallel", **train),
        Case("cuda-feedforward-16384x1024-bf16-train", (16384, 1024), "bf16", model="feedforward", **train, goal=(None, 0.75)),
    ]


CASES: dict[str, Case] = {case.name: case for case in (*_layers(), *_models(), *_cuda())}


def names(*, quick: bool = False, device: str | None = None) -> list[str]:
    """Return the names of all cases, or of the quick ones, or of those on one device."""
    return [c.name for c in CASES.values() if (c.quick or not quick) and device in (None, c.device)]
