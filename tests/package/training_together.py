"""A check of test_parallel.py, for each of its processes: they train one network, each at its own k or with its own draws."""

import warnings

import oracles
import torch
import torch.distributed as dist
from torch import Tensor, nn

from taildropout import TailDropout


def gathered(tensor: Tensor, world: int) -> list[Tensor]:
    """Return the tensors of all processes."""
    found = [torch.empty_like(tensor) for _ in range(world)]
    dist.all_gather(found, tensor.contiguous())
    return found


def training_together(rank: int, world: int) -> None:
    """Set k = 1 + 2 · rank, which reaches no other process; then train with draws of K that differ between processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.manual_seed(0)
        tail = TailDropout(0.5)
        net = nn.Sequential(nn.Linear(8, 16), tail, nn.BatchNorm1d(16), nn.Linear(16, 1))
        ddp = nn.parallel.DistributedDataParallel(net)
        torch.manual_seed(rank)
        input = torch.randn(64, 8)
        tail.set_k(1 + 2 * rank)
        for _ in range(2):
            ddp(input).sum().backward()
            kept = net[:2](input).ne(0).any(0).sum()
            assert kept == 1 + 2 * rank, f"rank {rank} keeps {kept}"
            assert int(tail.k) == 1 + 2 * rank
        tail.set_k(None)
        optimizer = torch.optim.Adam(net.parameters(), 0.03)
        wanted = input.sum(1, keepdim=True)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (ddp(input) - wanted).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert rank or sum(losses[-5:]) < 0.8 * sum(losses[:5])
        weights = gathered(torch.cat([each.detach().flatten() for each in net.parameters()]), world)
        widths = gathered(oracles.widths(tail(torch.ones(64, 16))), world)
        assert all(torch.equal(weights[0], other) for other in weights[1:])
        assert not any(torch.equal(widths[0], other) for other in widths[1:])
