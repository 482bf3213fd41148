"""The fused kernel as compilers see it, also without a GPU: Triton's for the machine code, torch's for the graph."""

import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from oracles import keep_first_at_once as plain
from package.selection.test_selection import assert_bitwise
from torch import Tensor
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


class Interpreted(torch.fx.Interpreter):
    """Runs a graph as it is, with the kernels in it by Triton's interpreter."""

    def __init__(self, module: torch.fx.GraphModule, kernel: object) -> None:
        super().__init__(module)
        self.kernel = kernel

    def call_function(self, target: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

        if "triton_kernel_wrapper" not in str(target):
            return super().call_function(target, args, kwargs)
        given = {**kernel_side_table.get_constant_args(kwargs["constant_args_idx"]), **kwargs["kwargs"]}
        written = {name: given[name].clone() for name in kwargs["tensors_to_clone"]}
        self.kernel[tuple(map(int, kwargs["grid"][0]))](**{**given, **written})
        return written


class Graphs:
    """A backend that keeps what AOTAutograd makes and interprets it."""

    def __init__(self, kernel: object) -> None:
        self.kernel = kernel
        self.graphs: list[torch.fx.Graph] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        from functorch.compile import make_boxed_func

        self.graphs.append(module.graph)
        return make_boxed_func(Interpreted(module, self.kernel).run)

    def written(self) -> list[list[list[str]]]:
        """Per graph and kernel in it, which tensors it writes to."""
        launched = [[node for node in graph.nodes if "triton_kernel_wrapper" in str(node.target)] for graph in self.graphs]
        return [[node.kwargs["tensors_to_clone"] for node in nodes] for nodes in launched]


@pytest.fixture
def graphs(interpreted: ModuleType) -> Iterator[Graphs]:
    torch.compiler.reset()
    yield Graphs(interpreted.selection.triton_kernel._keep_rows)
    torch.compiler.reset()


@pytest.mark.skipif(OLD_INTERPRETER, reason=LEFT_BEHIND)
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compilers_see_one_kernel_each_way_and_compiled_is_eager(graphs: Graphs, dynamic: bool | None) -> None:
    from torch._dynamo.backends.common import aot_autograd

    from taildropout.selection import triton_kernel as kernels

    backend = aot_autograd(fw_compiler=graphs, bw_compiler=graphs)
    compiled = torch.compile(lambda x, k: kernels.keep_first(x, k).mul(2), backend=backend, fullgraph=True, dynamic=dynamic)
    for batch in (8, 9):
        leaf = torch.randn(batch, 64, dtype=torch.bfloat16, requires_grad=True)
        k, sent = torch.randint(0, 65, (batch, 1)), torch.randn(batch, 64).bfloat16()
        output = compiled(leaf, k)
        assert_bitwise(output, plain(leaf, k).mul(2))
        (gradient,) = torch.autograd.grad(output, leaf, sent)
        assert_bitwise(gradient, plain(sent.mul(2), k))
        if dynamic:
            assert len(graphs.graphs) == 2, "another batch size compiles nothing"
    assert all(each == [["output"]] for each in graphs.written())


@pytest.mark.usefixtures("hopper")
def test_compilers_see_what_is_written_in_place(graphs: Graphs) -> None:
    from torch._dynamo.backends.common import aot_autograd

    from taildropout.selection import triton_kernel as kernels

    def body(x: Tensor, k: Tensor) -> Tensor:
        hidden = x * 2
        kernels.keep_first_(hidden, k)
        return hidden

    x, k = torch.randn(8, 64), torch.randint(0, 65, (8, 1))
    assert_bitwise(torch.compile(body, backend=aot_autograd(fw_compiler=graphs), fullgraph=True)(x, k), plain(x * 2, k))
    assert len(graphs.graphs) == 1
