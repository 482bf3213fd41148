"""The cost model: measured when first needed, kept, pinned by an environment variable."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from taildropout import TailMLP
from taildropout.mlp import cost, skipping, timing


@pytest.fixture(autouse=True)
def nothing_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cost.PIN, raising=False)
    cost._of_cpu.cache_clear()


def test_a_cpu_is_measured_once_for_each_dtype_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[torch.dtype, int]] = []

    def measure(dtype: torch.dtype) -> tuple[float, float, float, float]:
        measured.append((dtype, torch.get_num_threads()))
        return 7e7, 40.0, 100.0, 200.0

    monkeypatch.setattr(cost, "measure", measure)
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            assert cost.costs_of("cpu", dtype)[:5] == (7e7, 7e7, 40, 100, 200)
    assert measured == [(torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 2), (torch.bfloat16, 2)]


def test_a_wild_measurement_counts_up_to_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure", lambda _: (0.0, 1e9, 100.0, math.inf))
    usual = cost._CPU
    wanted = (usual.block / 4, usual.block / 4, usual.moved * 4, 100, usual.slope * 4, 2, usual.gain)
    assert cost.costs_of("cpu", torch.float32) == wanted


def test_with_more_threads_a_block_may_take_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure", lambda _: (1e12, 25.0, 100.0, 100.0))
    assert cost._of_cpu(torch.float32, 16).block == 16 * cost._of_cpu(torch.float32, 1).block == 64 * cost._CPU.block


def test_a_measurement_runs_no_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of `torch.autograd.grad` in a process imports sympy, which takes ten times as long as to measure."""
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: pytest.fail("autograd"))
    timing.measure(torch.float32)


def test_a_measurement_is_positive_and_draws_nothing() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    costs = timing.measure(torch.float32)
    assert torch.equal(torch.rand(3), wanted)
    assert all(math.isfinite(each) and each >= 0 for each in costs)
    assert min(costs[1:]) > 0


def test_a_variable_pins_the_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure", lambda _: pytest.fail("measured"))
    monkeypatch.setenv(cost.PIN, "0,4e7,50,120,380,2,.08")
    assert cost.costs_of("cpu", torch.bfloat16) == cost.costs_of("cuda", torch.float32) == (0, 4e7, 50, 120, 380, 2, 0.08)
    for costs in ("0,1e-300,0,0,0,0,0", "1e30,1e30,1e30,1e30,1e30,1e30,.99"):
        monkeypatch.setenv(cost.PIN, costs)
        blocks = [cost.blocks_that_pay(64, 99, 9, 0.5, whole, cost.costs_of("cpu", torch.float32), True) for whole in (0.1, 1)]
        assert blocks in ([64, 1], [0, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        *("fast", "1,2", "1,2,3,4,5", "1,2,3,4,5,6,7,8"),
        *("0,0,0,0,0,0,0", "1,0,1,1,1,1,.1", "1,-1,1,1,1,1,.1", "-1,1,1,1,1,1,.1"),
        *("1,inf,1,1,1,1,.1", "1,1,nan,1,1,1,.1", "1,1,1e400,1,1,1,.1", "1,1,1,1e300,1,1,.1", "1,1,1,1,1,1,5", "1,1,1,1,1,1,1"),
        *("1,1,1,1,1,1,-1", "1,1,1,1,1,1,-inf", "1,1,1,1,1,1,nan"),
    ],
)
def test_wrong_pinned_costs_are_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cost.PIN, wrong)
    with pytest.raises(ValueError, match=f"{cost.PIN}='{wrong}' is not once, block, moved.*seven numbers.*unset it"):
        cost.costs_of("cpu", torch.float32)


def test_measuring_stays_on_the_cpu() -> None:
    """Also with another default device, in eager code and in the operator for compilers."""
    torch.set_default_device("meta")
    try:
        costs = cost.costs_of("cpu", torch.float32)
        net = TailMLP(64, 512, 64, activation=nn.GELU(), p=0.9).to_empty(device="cpu")
        input = torch.zeros(1024, 64, device="cpu")
        for call in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
            output = call(input)
            output.sum().backward()
            assert output.device.type == "cpu"
    finally:
        torch.set_default_device(None)
        torch._dynamo.reset()
    assert min(costs[:5]) > 0


def test_a_slow_dtype_is_measured_with_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of a product takes a fixed time of a clock that the product itself moves."""
    for seconds_per_row, rows in ((1e-9, 128), (1e-4, 16), (1.0, 4)):
        now = [0.0]

        def product(left: Tensor, right: Tensor, now: list[float] = now, seconds: float = seconds_per_row) -> Tensor:
            now[0] += seconds * left.size(0)
            return right

        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "__matmul__", product)
            patch.setattr(timing, "_clock", lambda now=now: lambda: now[0])
            assert timing._rows(torch.ones(512, 512)) == rows


@pytest.mark.parametrize("gain", ["0", ".99"])
def test_whatever_is_decided_the_random_numbers_are_the_same(gain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cost.PIN, f"0,1e5,1,120,380,2,{gain}")
    net, input = TailMLP(64, 512, 64, activation=nn.GELU(), p=0.3), torch.randn(512, 64)
    found = []
    for each in (net, net, nn.Sequential(*net)):
        torch.manual_seed(0)
        found.append((each(input), torch.rand(1)))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0], found[2])
    assert torch.equal(found[0][0], found[2][0]) == (gain == ".99")


def test_a_block_with_a_k_per_row_must_be_larger_than_one_with_a_shared_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cost.PIN, "0,1e5,1,120,380,2,0")
    monkeypatch.setattr(skipping, "ragged_product", lambda operands, *_: torch.zeros(operands.x.size(0), 64))
    for rows, batch_dim, skips in ((512, None, False), (512, (), True), (1024, None, True)):  # 512 rows: 2²³ multiplications
        net, input = TailMLP(64, 256, 64, activation=nn.GELU(), p=0.5, batch_dim=batch_dim), torch.randn(rows, 64)
        assert (not net(input).any()) == skips
    net = TailMLP(64, 256, 64, activation=nn.GELU(), p=0.5)
    net[2].set_k(16)
    assert not net(torch.randn(512, 64)).any()


def test_costs_are_those_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = cost._COSTS
    assert cost.costs_of("cuda", torch.float32) == cost.costs_of("cuda", torch.float64) == costs["float32"]
    assert cost.costs_of("cuda", torch.bfloat16) == cost.costs_of("mps", torch.float32) == costs["half"]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert cost.costs_of("cuda", torch.float32) == costs["tf32"]
        assert cost.costs_of("cuda", torch.float64) == costs["float32"]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))  # torch before 2.9
    assert cost.costs_of("cuda", torch.float32) == costs["tf32"]
