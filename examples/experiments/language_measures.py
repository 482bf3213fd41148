"""Measurements of `language_model.py` on trained networks: the loss at every width, the effect of pruning, speed, memory."""

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from taildropout import TailDropout, TailMLP, at_k, prune, scree

from ..common.study import median_times

Loss = Callable[[nn.Module], float]  # the mean loss of a network on a text


def parameters(model: nn.Module) -> int:
    """Return the model's number of parameters."""
    return sum(map(torch.numel, model.parameters()))


def widths_of(n: int) -> list[int]:
    """Return the widths 0, 1, 2, 4 … n and every sixteenth of n."""
    return sorted({*range(0, n, max(1, n // 16)), *(2**i for i in range(n.bit_length()) if 2**i < n), n})


def loss_at(model: nn.Module, k: int, loss: Loss) -> float:
    """Return the loss with only the first k hidden features of every FFN."""
    with at_k(model, k):
        return loss(model)


def at_widths(
    model: nn.Module, widths: Sequence[int], loss: Loss, batches: Sequence[Any], each_loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, list[float]]:
    """Return the losses at each width of the hidden features: of all FFNs at once ("every FFN"), and of one alone, by name."""
    found = {"every FFN": [loss_at(model, k, loss) for k in widths]}
    for name in [name for name, module in model.named_modules() if isinstance(module, TailDropout)]:
        found[name] = scree(model, name, batches, each_loss, widths=widths).loss.tolist()
    return found


def cut(model: nn.Module, k: int, example: Tensor) -> nn.Module:
    """Return a copy of the model pruned to the first k hidden features of every FFN, without TailDropout."""
    for name in [name for name, module in model.named_modules() if isinstance(module, TailMLP)]:
        model = prune(model, f"{name}.2", k, example, remove=True)
    return model.eval()


def judge_cut(model: nn.Module, smaller: nn.Module, k: int, inputs: Tensor, loss: Loss) -> dict[str, float]:
    """Return the loss of the pruned network `smaller`, and its difference from the whole network `model` at width k."""
    with at_k(model.eval(), k), torch.no_grad():
        difference = (model(inputs) - smaller.eval()(inputs)).abs().max().item()
    return {
        "validation": loss(smaller),
        "validation_at_k": loss_at(model, k, loss),
        "largest_difference_of_logits": difference,
        "parameters": parameters(smaller),
    }


def peak_memory(call: Callable[[], Any]) -> int:
    """Return the peak bytes that two calls allocate in tensors; tensors that the first call leaves behind count."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler reports its start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return max(itertools.accumulate(changes), default=0)


def costs(
    steps: Mapping[str, Callable[[], Any]], models: Mapping[str, nn.Module], in_a_step: int, inputs: Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Return, by network, characters per processor second in training and in evaluation, and the peak bytes of a step.

    `in_a_step` is the number of characters in a training step, `inputs` is the text of evaluation.
    """

    def forward(model: nn.Module) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: model.eval()(inputs))

    training = median_times(dict(steps), rounds)
    evaluation = median_times({name: forward(model) for name, model in models.items()}, rounds)
    return {
        "training": {name: in_a_step / time for name, time in training.items()},
        "evaluation": {name: inputs.numel() / time for name, time in evaluation.items()},
        "memory": {name: peak_memory(step) for name, step in steps.items()},
    }
