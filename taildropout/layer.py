"""TailDropout, the layer.

With the default `batch_dim=0` every index of the first dim is a sample. So input (B, T, C), batch first, draws one K per
sequence, shared along T. Input (T, B, C), time first, draws one K per *time step*, shared along B; to draw one per sequence
give `batch_dim=1`. `batch_dim=[0, 1]` draws one K per token for both inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._torch import constant_in_graphs
from .compiled import CompiledConstants
from .dims import as_given, check_dims, check_layout, check_tensor, sample_dims, sample_shape
from .distribution import check_p, exponential_from_uniforms
from .dropping import drop_in_graph, drop_jagged, drop_tail
from .fixed_k import FixedK
from .functional import keep_first, tail_dropout
from .selection import Spread, is_jagged, on_components, select
from .tracing import in_model, node, overridden, refuse_script


class TailDropout(nn.Module):
    r"""In training, keep a random number K of each sample's first features and zero the tail.

    .. math:: P(K \ge j) = e^{-\lambda j}, \quad j = 1 \dots n, \qquad \mathrm{mean}_j\, e^{-\lambda j} = 1 - p

    A network so learns its features in order of importance, and can be cut down to any width afterwards. The output is never
    rescaled. In evaluation all features stay. `set_k(k)` keeps the first k, in training and in evaluation. The layer is nested
    dropout (Rippel, Gelbart & Adams 2014, "Learning ordered representations with nested dropout"), with an expected share of
    dropped features that is exactly p for every n.

    Args:
        p: drop probability: the expected share of features dropped. Default: 0.5
        batch_dim: the dim or dims whose every index is a sample with its own K; `()` draws one K for the whole input; None
            means all dims but `dropout_dim`. Default: 0
        dropout_dim: the dim of features. Default: -1
        inplace: if True, write into the input. Default: False

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if `p` is outside [0, 1], or `batch_dim` and `dropout_dim` name a dim twice.

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more. An input that lacks a dim raises IndexError.

    Examples:
        >>> layer = TailDropout(p=0.5)
        >>> features = layer(torch.randn(20, 16))  # each row keeps a random prefix
        >>> layer.eval().set_k(3)
        >>> layer(torch.ones(2, 5))
        tensor([[1., 1., 1., 0., 0.],
                [1., 1., 1., 0., 0.]])
    """

    def __init__(
        self, p: float = 0.5, batch_dim: int | Sequence[int] | None = 0, dropout_dim: int = -1, *, inplace: bool = False
    ) -> None:
        super().__init__()
        self._batch_dims, self.dropout_dim = check_dims(batch_dim, dropout_dim)
        if self._batch_dims is not None and len({*self._batch_dims, dropout_dim}) <= len(self._batch_dims):
            raise ValueError(
                f"batch_dim={batch_dim} repeats a dim or names that of the features, dropout_dim={dropout_dim}; give each "
                "dim of samples once"
            )
        self._batch_dim = as_given(batch_dim, self._batch_dims)
        if not isinstance(inplace, bool):
            raise TypeError(f"inplace={inplace!r} has type {type(inplace).__name__}; give True or False")
        self.inplace = inplace
        self._p = check_p(p)
        self._constants = CompiledConstants(self._p)
        self.fixed_k = FixedK()  # for this package only; users call `set_k` and read `k`

    @property
    def batch_dim(self) -> int | list[int] | None:
        """The dim or dims of samples, as given to the constructor. Read-only."""
        return self._batch_dim

    @property
    def p(self) -> float:
        """Drop probability. A new value is checked and takes effect at once, also in compiled code."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = check_p(p)
        self._constants = self._constants.for_p(self._p)

    def set_p(self, p: float) -> None:
        """Set the drop probability, as `layer.p = p` does.

        Raises:
            TypeError: if `p` is not a number; p stays unchanged.
            ValueError: if `p` is outside [0, 1]; p stays unchanged.
        """
        self.p = p

    @property
    def k(self) -> Tensor | None:
        """The k that `set_k` has set, as an int64 tensor; None while K is random."""
        return self.fixed_k.k

    def set_k(self, k: int | Tensor | None) -> None:
        """Keep the first `k` features from now on, in training and in evaluation; None draws K at random again.

        `train()` and `eval()` forget k, with a warning. Within `at_k` they keep k; `at_k` also turns off the fast path of
        `nn.TransformerEncoderLayer`, which would bypass the layer.

        Args:
            k: an int from 0 to the number of features; or an integer tensor, 0-d or with exactly the sizes of `batch_dim` in
                order, one k per sample; or None.

        Raises:
            TypeError: if `k` is not an int, an integer tensor or None.
            ValueError: if a k is negative. If a k is greater than the number of features, or `k` has another shape than
                `batch_dim`, the first eager forward raises. Compiled and exported code keeps all features if k is greater.
        """
        self.fixed_k = self.fixed_k.set(k)

    def train(self, mode: bool = True) -> TailDropout:
        """Set training mode and forget k, with a warning if k was set."""
        super().train(mode)
        fixed = self.fixed_k
        if fixed.k is not None and fixed.held_as is None:
            self.set_k(None)
            warnings.warn(
                f"{'train' if mode else 'eval'}() forgets k={fixed}; call set_k after it, or use at_k, which keeps k",
                stacklevel=2,
            )
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Drop the tail of the input's features."""
        if type(input) is not Tensor and (output := self._of_other_type(input)) is not None:
            return output
        if self.fixed_k.k is not None:
            check_layout(input)
            return select(input, *self.k_for(input.shape, input.device), self.inplace)
        if torch.compiler.is_compiling():
            return self._compiled(input)
        if self.training:
            return drop_tail(input, self._p, self._batch_dims, self.dropout_dim, self.inplace)
        sample_dims(input.dim(), self._batch_dims, self.dropout_dim)  # raises if the dims do not fit
        return input

    def k_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a random K for an input of this shape: 1 except in the dims of samples. For this package."""
        return sample_shape(shape, self._batch_dims, self.dropout_dim)[0]

    def k_for(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, int]:
        """Return the set k, to broadcast to an input of this shape and device, and the feature dim. For this package."""
        fixed = self.fixed_k
        k = fixed.k
        assert k is not None
        if k.device != device:
            k = k.to(device)
            if type(k) is Tensor and not k.is_meta and not torch.compiler.is_compiling():  # no fake tensor is kept
                self.fixed_k = fixed.moved(k.device)
        return fixed.spread(k, shape, self._batch_dims, self.dropout_dim)

    def drawn_in_graph(self, input: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the exponential E, of which K = min(n, ⌊E⌋), as compiled code draws it. For this package.

        `shape` is the shape of the features, which are in its last dim; `input` gives the device.
        """
        scale, _ = self._compiled_constants(int(shape[-1]), input.device)
        return exponential_from_uniforms(input, self.k_shape(shape), scale)

    def _of_other_type(self, input: Any) -> Tensor | None:
        """Return the output for a proxy, a jagged tensor or a class that overrides torch; None if `forward` must go on."""
        if in_model(self, input):
            return node(self, input)  # type: ignore[no-any-return]
        k, is_tensor = self.fixed_k.k, isinstance(input, Tensor)
        if k is not None and is_tensor and is_jagged(input):
            return self._jagged_at_k(input)
        if not (k is not None and is_tensor) and overridden(input):
            if k is not None and k.dim():
                raise TypeError(
                    f"k is {self.fixed_k}, one for each sample, but input has type {type(input).__name__} and unknown shape; "
                    "call set_k with an int, or trace a model that holds the layer"
                )
            if k is not None:
                return keep_first(input, k, self.dropout_dim)
            options: Any = {"batch_dim": self._batch_dims, "dropout_dim": self.dropout_dim}
            return tail_dropout(input, self._p, self.training, self.inplace, **options)
        check_tensor(input)
        if k is None and self.training and is_jagged(input):
            return drop_jagged(input, self._p, self._batch_dims, self.dropout_dim, self.inplace)
        return None

    def _jagged_at_k(self, input: Tensor) -> Tensor:
        k, feature = self.k_for(input.shape, input.device)

        def keep(values: Tensor, spread: Spread) -> Tensor:
            return select(values, spread(k.squeeze(1)) if k.dim() else k, feature - 1)

        return on_components(input, (0,) if k.dim() else (), feature, keep)

    def _compiled(self, input: Tensor) -> Tensor:
        sample_dims(input.dim(), self._batch_dims, self.dropout_dim)  # raises if the dims do not fit
        if not self.training or input.numel() == 0:
            return input
        # p is read only for an integer input, because code that reads p is compiled again for every p.
        if not (input.is_floating_point() or input.is_complex()) and self._p == 0:
            return input
        return drop_in_graph(input, self._compiled_constants, self._batch_dims, self.dropout_dim, self.inplace)

    def _compiled_constants(self, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        self._prepare(n, device)
        return self._constants.kept[n, device]

    @constant_in_graphs  # keeps the root finder for λ out of the graph
    def _prepare(self, n: int, device: torch.device) -> None:
        self._constants.prepare(n, device)

    def _apply(self, fn: Any, recurse: bool = True) -> TailDropout:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        home = fn(torch.empty(0, device=self.fixed_k.home)).device
        if home.type != "meta":
            self.fixed_k = self.fixed_k.moved(home)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(_as_now(state))  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of the original package hold a k, but not whether it was set, so k is ignored.
        state_dict.pop(prefix + "k", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer; and k, if it is set."""
        inplace = ", inplace=True" if self.inplace else ""
        shown = f"p={self.p}, batch_dim={self.batch_dim}, dropout_dim={self.dropout_dim}{inplace}"
        return shown if self.k is None else f"{shown}; k={self.fixed_k}"

    __prepare_scriptable__ = refuse_script  # `torch.jit.script` calls it first


def _as_now(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a pickled layer in its present form: 0.1 and early 0.2 stored each part of `fixed_k` by itself."""
    state = dict(state)
    if "fixed_k" not in state:
        home, held_as = state.pop("_home", torch.device("cpu")), state.pop("_held_as", None)
        state["fixed_k"] = FixedK(state.pop("_k", None), state.pop("_largest_k", 0), home, held_as)
        state["_constants"] = CompiledConstants(state["_p"])
        state.pop("_compiled_constants", None)
    return state
