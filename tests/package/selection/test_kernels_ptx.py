"""The machine code that Triton's compiler makes of the fused kernel, also without a GPU."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.torch_version import TorchVersion

triton = pytest.importorskip("triton", reason="needs Triton: pip install triton, on Linux")


# Of Triton before that of torch 2.10 the interpreter changes triton.language for good: nothing compiles in the process then.
OLD_INTERPRETER = torch.__version__ < TorchVersion("2.10")
LEFT_BEHIND = "this Triton compiles nothing in a process in which its interpreter ran"


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a Hopper GPU as target; without a GPU pretend that it is there: code can be compiled for it, but not run."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    if OLD_INTERPRETER and "taildropout_interpreted" in sys.modules:
        pytest.skip(LEFT_BEHIND)
    target = GPUTarget("cuda", 90, 32)
    if not torch.cuda.is_available():
        active = "_active" if hasattr(driver, "_active") else "active"  # Triton 3.4, of torch 2.8, has a plain attribute
        monkeypatch.setattr(driver, active, SimpleNamespace(get_current_target=lambda: target))
    return target


def compile_for(target: object, kernels: ModuleType, sizes: dict[str, object], bits: int, k: str, inplace: bool) -> str:
    """PTX of the kernel. Sizes are types, or values that the compiler knows; what is aligned is divisible by 16."""
    from triton.compiler import ASTSource

    tile = kernels.TILE_BYTES // (bits // 8)
    known = {"INPLACE": inplace, "ROWS": 1, "COLS": tile, "VECTOR": kernels.VECTOR_BYTES // (bits // 8)}
    known |= {name: value for name, value in sizes.items() if not isinstance(value, str)}
    pointers = {"input": f"*i{bits}", "output": f"*i{bits}", "k": f"*{k}"}
    signature = {name: "constexpr" if name in known else {**pointers, **sizes}[name] for name in kernels._keep_rows.arg_names}
    aligned = [name for name in (*pointers, "width") if name not in known]
    attributes = {(kernels._keep_rows.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return triton.compile(ASTSource(kernels._keep_rows, signature, known, attributes), target=target).asm["ptx"]


SIZES: dict[str, dict[str, object]] = {
    "many": dict.fromkeys(("rows", "width", "n", "unit", "share", "count"), "i32"),
    "above 2 to the 31": dict.fromkeys(("rows", "width", "n", "unit", "share", "count"), "i64"),
    "ones": dict.fromkeys(("rows", "width", "n", "unit", "share", "count"), 1),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("bits", "k"), [(8, "i64"), (16, "fp32"), (32, "fp32"), (64, "fp64")])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_kernel_compiles_to_vectors_of_16_bytes(hopper: object, sizes: str, bits: int, k: str, inplace: bool) -> None:
    """Masks that might change within 16 bytes would have it load number by number."""
    from taildropout.selection import triton_kernel as kernels

    ptx = compile_for(hopper, kernels, SIZES[sizes], bits, k, inplace)
    if sizes == "ones":
        return
    loads, stores = (re.findall(rf"{verb}\.global[\w.:]*", ptx) for verb in ("ld", "st"))
    wide = "v2.b64" if bits == 64 else "v4.b32"
    per_thread = kernels.TILE_BYTES // 128 // kernels.VECTOR_BYTES
    assert [each.endswith(wide) for each in loads].count(True) == per_thread == len(loads) - 1  # and k
    assert [each.endswith(wide) for each in stores] == [True] * per_thread
