"""The layer takes the fused kernel by itself: same bits, one launch each way, and plain torch wherever the kernel cannot go."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import oracles
import pytest
import torch
from oracles import keep_first_at_once as plain
from package.selection.test_selection import DTYPES, assert_bitwise


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_layer_gives_the_same_bits_in_one_launch_each_way(
    place: SimpleNamespace, launches: list[str], dtype: torch.dtype, inplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = place.package.selection.dispatch
    sent = torch.randn(6, 300, device=place.device).to(dtype)
    found = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(selection, "FUSED_FROM", 10**9)
        layer = place.package.TailDropout(0.5, inplace=inplace)
        torch.manual_seed(1)
        leaf = torch.randn(6, 300, device=place.device).to(dtype).requires_grad_()
        output = layer(leaf * 1)
        found.append((output, *torch.autograd.grad(output, leaf, sent)))
        layer.set_k(7)
        found[-1] += (layer(leaf * 1),)
    for got, wanted in zip(*found, strict=True):
        assert_bitwise(got, wanted)
    assert launches == ["new"] * 3


def test_in_place_the_tail_alone_is_written_where_autograd_need_not_be_asked(
    place: SimpleNamespace, launches: list[str]
) -> None:
    layer = place.package.TailDropout(inplace=True)
    layer.set_k(5)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            input = torch.ones(4, 40, device=place.device)
            version = 0 if input.is_inference() else input._version
            assert layer(input) is input
            assert (oracles.widths(input) == 5).all()
            assert input.is_inference() or input._version == version + 1
    assert launches == ["in place"] * 2
    leaf = torch.ones(4, 40, device=place.device, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        layer(leaf)
    assert leaf.detach().all()
    with torch.inference_mode():
        frozen = torch.ones(4, 40, device=place.device)
    with pytest.raises(RuntimeError, match="nference tensor"):
        layer(frozen)
    assert launches == ["in place"] * 2 + ["new"] * 2


def test_derivatives_and_transforms_of_every_kind(place: SimpleNamespace, launches: list[str]) -> None:
    kept = place.package.keep_first
    k = torch.tensor([[0], [2], [5]], device=place.device)
    input = torch.randn(3, 5, dtype=torch.float64, device=place.device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kept(x, k), input, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: kept(x, k), input)
    batch = torch.randn(4, 3, 5, device=place.device)
    assert torch.equal(torch.func.vmap(lambda x: kept(x, k))(batch), plain(batch, k))
    output, tangent = torch.func.jvp(lambda x: kept(x, k), (batch[0],), (batch[1],))
    assert torch.equal(torch.stack([output, tangent]), plain(batch[:2], k))
    assert launches
    layer = place.package.TailDropout(inplace=True)
    layer.set_k(2)
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(batch[0].clone(), batch[1].clone())
        moved = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    assert torch.equal(moved, plain(batch[1], torch.tensor(2, device=place.device)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_draws_the_same_again(place: SimpleNamespace, launches: list[str], reentrant: bool) -> None:
    layer = place.package.TailDropout()
    leaf = torch.ones(30, 40, device=place.device, requires_grad=True)
    output = torch.utils.checkpoint.checkpoint(lambda x: layer(x * 1), leaf, use_reentrant=reentrant)
    output.sum().backward()
    assert torch.equal(leaf.grad, output.detach())
    assert output.any()
    assert len(launches) >= 2


def test_small_tensors_and_k_elsewhere_are_plain_torchs(
    place: SimpleNamespace, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.package.selection.dispatch, "FUSED_FROM", 1000)
    input = torch.ones(10, 99, device=place.device)
    place.package.keep_first(input, 3)
    assert launches == []
    input = torch.ones(10, 100, device=place.device)
    place.package.keep_first(input, 3)
    assert launches == ["new"]
    on_host = torch.tensor(3) if place.device == "cuda" else torch.tensor(3, device="meta")
    try:
        assert torch.equal(place.package.keep_first(input, on_host), place.package.keep_first(input, 3))
    except (RuntimeError, AssertionError):
        assert on_host.is_meta  # which has no number to go by
    assert launches == ["new"] * (1 if on_host.is_meta else 2)


def test_without_triton_plain_torch_selects(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    selection, input = interpreted.selection.dispatch, torch.randn(30, 600)
    monkeypatch.setattr(selection, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(selection, "FUSED_FROM", 1)
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    monkeypatch.setattr(selection, "_kernels", {})
    assert_bitwise(interpreted.keep_first(input, 7), plain(input, torch.tensor(7)))


def test_a_triton_that_does_not_work_is_named_once(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    selection, input = interpreted.selection.dispatch, torch.randn(30, 600)
    monkeypatch.setattr(selection, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(selection, "FUSED_FROM", 1)
    monkeypatch.setattr(selection, "_kernels", {})
    monkeypatch.setattr(interpreted.selection.triton_kernel, "launch", broken)
    with pytest.warns(RuntimeWarning, match="plain torch is used, which is slower. RuntimeError: Failed to find C compiler"):
        output = interpreted.keep_first(input, 7)
    assert_bitwise(output, plain(input, torch.tensor(7)))
    assert_bitwise(interpreted.keep_first(input, 7), output)


def test_a_cpu_never_imports_the_kernels() -> None:
    code = (
        "import sys, torch, taildropout; x = torch.ones(300, 600, requires_grad=True);"
        "taildropout.TailDropout()(x).sum().backward(); assert 'taildropout.selection.triton_kernel' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
