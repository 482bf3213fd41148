"""Training on several devices means what it means on one: gloo processes on the CPU beside the same training in one process.

Each process of a test runs all of `CHECKS`, so that processes are started once per number of them.
"""

import itertools
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from package.training_together import gathered, training_together
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import taildropout.mlp.cost
from benchmarks import ROOT
from benchmarks.suite import scaling
from taildropout import TailDropout, TailMLP

FEATURES, HIDDEN, ROWS, STEPS = 6, 13, 24, 3  # 13 hidden features: shards of different size

Net = Callable[[Tensor], Tensor]


def net(block: bool = False) -> nn.Sequential:
    """Return a network with the same weights in every process, with or without a TailMLP (which cuts products of any size)."""
    torch.manual_seed(0)
    made = TailMLP(FEATURES, HIDDEN, FEATURES, activation=nn.GELU(), p=0.5)
    return (made if block else nn.Sequential(*made)).double()


def batch(step: int, *shape: int) -> Tensor:
    """Return the whole input of a step, the same in every process."""
    shape = shape or (ROWS, FEATURES)
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def widths(step: int, *shape: int) -> Tensor:
    """One k for every sample of a step."""
    return torch.randint(HIDDEN + 1, shape or (ROWS,), generator=torch.Generator().manual_seed(100 + step))


def train(model: Net, tail: TailDropout, weights: list[Tensor], rows: slice = slice(None)) -> None:
    """Some steps at given k, on this process's rows."""
    optimizer = torch.optim.SGD(weights, 0.5)
    for step in range(STEPS):
        tail.set_k(widths(step)[rows])
        optimizer.zero_grad()
        model(batch(step)[rows]).pow(2).mean().backward()
        optimizer.step()


def trained_alone() -> list[Tensor]:
    """Return the parameters that a single process trains."""
    model = net()
    train(model, model[2], list(model.parameters()))
    return list(model.parameters())


def mine(rank: int, world: int) -> slice:
    """Return the rows of a process."""
    return slice(rank * ROWS // world, (rank + 1) * ROWS // world)


def seeds(rank: int, world: int) -> None:
    """One seed for all gives all processes the same k; seed + rank, as documented, gives each its own."""
    layer, ones = TailDropout(0.5), torch.ones(50, 40)
    for seed, same in ((7, True), (7 + rank, False)):
        torch.manual_seed(seed)
        masks = gathered(layer(ones), world)
        assert all(torch.equal(masks[0], other) == same for other in masks[1:])


def data_parallel(rank: int, world: int) -> None:
    """DDP gives the weights of one process, and nobody gets another's k."""
    for block in (False, True):
        model = net(block)
        ddp = nn.parallel.DistributedDataParallel(model)
        train(ddp, model[2], list(model.parameters()), mine(rank, world))
        assert torch.equal(model[2].k, widths(STEPS - 1)[mine(rank, world)])
        torch.testing.assert_close(list(model.parameters()), trained_alone())


def checkpointed_data_parallel(rank: int, world: int) -> None:
    """Check that in DDP a checkpointed forward, when it runs again, draws the same k."""
    for block in (False, True):
        found = []
        for again in (False, True):
            model = net(block)
            ddp = nn.parallel.DistributedDataParallel(Checkpointed(model, again))
            torch.manual_seed(7 + rank)
            ddp(batch(0)[mine(rank, world)]).pow(2).mean().backward()
            found.append([each.grad for each in model.parameters()])
        torch.testing.assert_close(*found, rtol=0, atol=0)


class Checkpointed(nn.Module):
    """Forgets, if it shall, what is inside and computes it again for backward, after other random numbers were drawn."""

    def __init__(self, inside: nn.Module, again: bool) -> None:
        super().__init__()
        self.inside, self.again = inside, again

    def forward(self, input: Tensor) -> Tensor:
        output = checkpoint(self.inside, input, use_reentrant=False) if self.again else self.inside(input)
        torch.rand(3)
        return output


def fully_sharded(rank: int, world: int) -> None:
    """FSDP2, around all and around each Linear, gives the weights of one process."""
    from torch.distributed.fsdp import fully_shard

    for block in (False, True):
        for inner in (False, True):
            model = net(block)
            if inner:
                fully_shard(model[0])
                fully_shard(model[3])
            fully_shard(model)
            train(model, model[2], list(model.parameters()), mine(rank, world))
            torch.testing.assert_close([each.full_tensor() for each in model.parameters()], trained_alone())


def collectives(call: Callable[[], object]) -> int:
    """Return the number of collectives that a call starts."""
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode() as counted:
        call()
    return counted.get_total_counts()


def shards_of_features(rank: int, world: int) -> None:
    """Check that each shard keeps its part of one prefix, with a random and a fixed k, without communication."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (world,))
    for rows in (ROWS, 3000):  # small and large inputs take different ways
        whole = batch(0, rows, HIDDEN)
        layer = TailDropout(0.5)
        for placement in (Shard(1), Shard(-1), Replicate()):
            part = distribute_tensor(whole, mesh, [placement])
            for k in (None, 5, widths(0, rows)):
                layer.set_k(k)
                torch.manual_seed(3)
                wanted = layer(whole)
                torch.manual_seed(3)
                assert collectives(lambda part=part, layer=layer: layer(part)) == 0
                torch.manual_seed(3)
                assert torch.equal(layer(part).full_tensor(), wanted)


def shards_of_samples(rank: int, world: int) -> None:
    """Check that each sample (or token) has its own random or fixed k, whichever shard holds it."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (world,))
    for shape, batch_dim, dim in (((ROWS, HIDDEN), 0, 0), ((3, 10, HIDDEN), None, 1), ((3, 10, HIDDEN), [1, 0], 1)):
        whole = batch(0, *shape)
        layer = TailDropout(0.5, batch_dim)
        part = distribute_tensor(whole, mesh, [Shard(dim)])
        sizes = shape[:-1] if batch_dim != [1, 0] else (10, 3)
        layer.set_k(widths(0, *sizes))
        assert collectives(lambda part=part, layer=layer: layer(part)) == 0
        assert torch.equal(layer(part).full_tensor(), layer(whole))
        layer.set_k(None)
        torch.manual_seed(rank)
        kept = layer(part).full_tensor() != 0
        assert not (kept[..., 1:] & ~kept[..., :-1]).any()
        k = [each.flatten() for each in kept.sum(-1).split(-(-shape[dim] // world), dim)]
        assert not torch.equal(k[0], k[1])


def sharded_twice(rank: int, world: int) -> None:
    """Samples over one dim of a mesh, features over the other."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (world // 2, 2))
    whole, layer = batch(0, ROWS, HIDDEN), TailDropout(0.5)
    part = distribute_tensor(whole, mesh, [Shard(0), Shard(1)])
    layer.set_k(widths(0))
    assert torch.equal(layer(part).full_tensor(), layer(whole))
    layer.set_k(None)
    torch.manual_seed(mesh.get_local_rank(0))  # the same for those that share samples
    kept = layer(part).full_tensor() != 0
    assert not (kept[:, 1:] & ~kept[:, :-1]).any()
    assert kept.sum(1).unique().numel() > 2
    both = distribute_tensor(whole, mesh, [Shard(1), Shard(1)])
    layer.set_k(widths(0))
    assert torch.equal(layer(both).full_tensor(), layer(whole))


def tensor_parallel(rank: int, world: int) -> None:
    """Check that a block with sharded hidden features trains as in one process, with a fixed and, for one seed, a random k."""
    from torch.distributed.tensor import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (world,))
    for block in (False, True):
        model = net(block)
        parallelize_module(model, mesh, {"0": ColwiseParallel(use_local_output=False), "3": RowwiseParallel()})
        train(model, model[2], list(model.parameters()))
        torch.testing.assert_close([each.full_tensor() for each in model.parameters()], trained_alone())
        model[2].set_k(None)
        alone = net()
        alone.load_state_dict({name: each.full_tensor() for name, each in model.state_dict().items()})
        outputs = []
        for each in (model, alone):
            torch.manual_seed(4)
            outputs.append(each(batch(0)))
        torch.testing.assert_close(*outputs)


def sequence_parallel(rank: int, world: int) -> None:
    """Check torch's parallel style for dropout on sharded tokens."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
    from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

    mesh = init_device_mesh("cpu", (world,))
    whole, layer = batch(0, 3, 8, HIDDEN), TailDropout(0.5, None)
    layer.set_k(widths(0, 3, 8))
    wanted = layer(whole)
    parallelize_module(layer, mesh, SequenceParallel())
    local = distribute_tensor(whole, mesh, [Shard(1)]).to_local().requires_grad_()
    output = layer(local)
    assert torch.equal(output.full_tensor(), wanted)
    output.to_local().sum().backward()
    assert torch.equal(local.grad != 0, output.to_local() != 0)


def parts_that_are_summands(rank: int, world: int) -> None:
    """Half a sum cannot be selected from."""
    from torch.distributed.tensor import DTensor, Partial, init_device_mesh

    part = DTensor.from_local(batch(0), init_device_mesh("cpu", (world,)), [Partial()])
    with pytest.raises(ValueError, match="redistribute"):
        TailDropout(0.5)(part)


def pipeline(rank: int, world: int) -> None:
    """Check that a recomputed stage has the same gradients, and that all stages have those of one process."""
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    micro, found = 4, []
    example = batch(0)[: ROWS // micro].requires_grad_()  # so that gradients are sent back
    for again, k in ((False, None), (True, None), (True, 5)):
        torch.manual_seed(rank)
        model = net(True)
        model[2].set_k(k)
        inside = Checkpointed(model, again)
        ends = {"input_args": example.detach() if rank == 0 else example, "output_args": example}
        stage = PipelineStage(inside, rank, world, torch.device("cpu"), **ends)
        schedule = ScheduleGPipe(stage, micro, loss_fn=lambda output, target: (output - target).pow(2).mean())
        torch.manual_seed(rank)
        arguments = (batch(0),) if rank == 0 else ()
        schedule.step(*arguments, **({"target": batch(1)} if rank == world - 1 else {}))
        found.append([each.grad for each in model.parameters()])
    torch.testing.assert_close(found[0], found[1])
    alone = [net() for _ in range(world)]
    for each in alone:
        each[2].set_k(5)
    (nn.Sequential(*alone)(batch(0)) - batch(1)).pow(2).mean().backward()
    torch.testing.assert_close(found[2], [each.grad for each in alone[rank].parameters()])


CHECKS = [seeds, data_parallel, checkpointed_data_parallel, fully_sharded, shards_of_features, shards_of_samples]
CHECKS += [sharded_twice, tensor_parallel, sequence_parallel, parts_that_are_summands, pipeline, training_together]


def work(rank: int, world: int, folder: str) -> None:
    """One process; it writes down which checks fail, and why."""
    warnings.simplefilter("ignore")  # torch's own, of its parallel parts
    torch.set_num_threads(1)
    taildropout.mlp.cost._SMALL, taildropout.mlp.cost.blocks_that_pay = 0, lambda n, *_: min(n, 3)
    patience = timedelta(seconds=120)
    store = dist.FileStore(os.path.join(folder, "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
    for check in CHECKS:
        try:
            check(rank, world)
        except Exception:
            Path(folder, f"{check.__name__}.{rank}").write_text(traceback.format_exc())
            raise
        Path(folder, f"{check.__name__}.{rank}").write_text("")
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo")
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_train_as_one_does(world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.exists("/sys/class/net/lo"):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    try:
        torch.multiprocessing.spawn(work, args=(world, str(tmp_path)), nprocs=world)
    except Exception as error:
        reports = [file.read_text() for file in sorted(tmp_path.glob("*.*")) if file.stat().st_size]
        pytest.fail("\n".join(reports) or str(error), pytrace=False)
    assert all((tmp_path / f"{check.__name__}.{rank}").exists() for check in CHECKS for rank in range(world))


def test_the_checks_can_fail() -> None:
    """The weights that all are compared with depend on every row."""
    model = net()
    train(model, model[2], list(model.parameters()), slice(0, ROWS - 1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(list(model.parameters()), trained_alone())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts what a CPU measures")
@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo")
def test_the_scaling_benchmark_measures_each_strategy_in_one_and_two_processes() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "benchmarks.commands.scaling"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:]]
    wanted = itertools.product(["1", "2"], ["ddp", "fsdp2"], scaling.LAYERS)
    assert sorted(rows) == sorted([strategy, layer, count] for count, strategy, layer in wanted)
    for strategy, layer in itertools.product(scaling.STRATEGIES[:2], scaling.LAYERS):
        assert 0.1 < scaling.Scaling().track_inverse_efficiency(strategy, layer) < 100
    with pytest.raises(NotImplementedError, match="two GPUs"):
        scaling.Scaling().track_inverse_efficiency("data_parallel", "copy")
