"""TailDropout, the layer.

For the default `batch_dim=0` every index of the first dim is a sample. Input (B, T, C), batch first, so draws one k per
sequence, shared along T. Input (T, B, C), time first, draws one k per *time step*, shared along B: what is wanted there is
`batch_dim=1`. `batch_dim=[0, 1]` draws one per token in both.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ._torch import constant_in_graphs
from .dims import as_given, check_dims, check_tensor, constant_sizes, positions, refuse_strided, sample_dims, sample_shape
from .distribution import check_p, exponential_from_uniforms, rate
from .functional import check_float, drop_jagged, drop_tail, keep_first, look_for_columns, tail_dropout
from .selection.dispatch import select
from .selection.jagged import Spread, is_jagged, on_components
from .tracing import in_model, node, overridden, refuse_script

_MOST = 2**63 - 1  # what an int64 holds


def check_k(k: object) -> int:
    """The largest value of k, once it is known to be an int or an integer tensor, and nowhere negative."""
    if isinstance(k, Tensor):
        if k.dtype == torch.bool or k.is_floating_point() or k.is_complex():
            raise TypeError(f"k is a tensor of dtype {k.dtype}; give an integer tensor, one k per sample: k.long()")
        if k.numel() == 0:
            return 0
        least, largest = (int(each) for each in k.long().aminmax())
    elif isinstance(k, bool) or not isinstance(k, Integral):  # of NumPy too: what argmin gives
        raise TypeError(f"k={k!r} is a {type(k).__name__}; give an int, an integer tensor or None")
    else:
        least = largest = int(k)
    if largest > _MOST:
        raise ValueError(f"k={largest} is more than any number of features; give an int below 2**63")
    if least < 0:
        raise ValueError(f"k={least} is negative; give 0 (no feature) up to the number of features")
    return largest


class TailDropout(nn.Module):
    r"""In training, keep a random number K of each sample's first features and zero the tail.

    .. math:: P(K \ge j) = e^{-\lambda j}, \quad j = 1 \dots n, \qquad \mathrm{mean}_j\, e^{-\lambda j} = 1 - p

    So a network learns its features in order of importance, and can be cut down to any width afterwards. The output is never
    rescaled. In evaluation all features stay. `set_k(k)` keeps the first k, in training and in evaluation. The idea is that of
    nested dropout (Rippel, Gelbart & Adams 2014, "Learning ordered representations with nested dropout").

    Args:
        p: drop probability: the expected share of features dropped. Default: 0.5
        batch_dim: the dim, or dims, whose every index is a sample with its own K; `()`: one K for the whole input;
            None: all dims but `dropout_dim`. Default: 0
        dropout_dim: the dim of features. Default: -1
        inplace: write into the input. Default: False

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if p is outside [0, 1].

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more. IndexError or ValueError if the dims do not fit it.

    Examples:
        >>> layer = TailDropout(p=0.5)
        >>> features = layer(torch.randn(20, 16))  # every row a random prefix
        >>> layer.eval().set_k(3)
        >>> features = layer(torch.randn(20, 16))  # every row its first 3 features
    """

    _held_as: str | None = None  # for layers that were pickled before there was this attribute

    def __init__(
        self, p: float = 0.5, batch_dim: int | Sequence[int] | None = 0, dropout_dim: int = -1, *, inplace: bool = False
    ) -> None:
        super().__init__()
        self._batch_dims, self.dropout_dim = check_dims(batch_dim, dropout_dim)
        if self._batch_dims is not None and len({*self._batch_dims, dropout_dim}) <= len(self._batch_dims):
            raise ValueError(f"batch_dim={batch_dim} and dropout_dim={dropout_dim} repeat a dim; name each once")
        self._batch_dim = as_given(batch_dim, self._batch_dims)
        if not isinstance(inplace, bool):
            raise TypeError(f"inplace={inplace!r} is a {type(inplace).__name__}; give True or False")
        self.inplace = inplace
        self._p = check_p(p)
        self._k: Tensor | None = None
        self._largest_k = 0
        self._held_as = None  # the layer's name in the model that `at_k` holds: `train()` and `eval()` keep k then
        # Where k goes: with the module (see `_apply`) or to its inputs. No buffer: DDP would send one rank's k to the others.
        self._home = torch.device("cpu")
        # What compiled code reads instead of p, per number of features and device: 1/λ as a tensor, so that another p
        # compiles nothing, and the positions 1 … n. No buffers: the state_dict stays empty.
        self._compiled_constants: dict[tuple[int, torch.device], tuple[Tensor, Tensor | None]] = {}

    @property
    def batch_dim(self) -> int | list[int] | None:
        """The dim or dims of samples, as given to the constructor; not to be set."""
        return self._batch_dim

    @property
    def p(self) -> float:
        """Drop probability; setting it validates and takes effect at once, also in compiled code."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = check_p(p)
        self._compiled_constants = {
            key: (self._scale(*key), one_to_n) for key, (_, one_to_n) in self._compiled_constants.items()
        }

    def set_p(self, p: float) -> None:
        """Set the drop probability, as `layer.p = p` does.

        Raises:
            TypeError, ValueError: if `p` is no number in [0, 1]; the old one stays.
        """
        self.p = p

    @property
    def k(self) -> Tensor | None:
        """What `set_k` has set, as an int64 tensor; None while K is random."""
        return self._k

    def set_k(self, k: int | Tensor | None) -> None:
        """Keep the first `k` features from now on, in training and in evaluation; None draws at random again.

        `train()` and `eval()` forget k, with a warning; `at_k` does not, and also sees to it that nothing bypasses the layer.

        Args:
            k: an int from 0 to the number of features; or an integer tensor, 0-d or with exactly the sizes of `batch_dim` in
                order, one k per sample; or None.

        Raises:
            TypeError: if `k` is not an int, an integer tensor or None.
            ValueError: if a k is negative. If it is greater than the number of features, or of a shape that is not that of
                `batch_dim`, the first eager forward raises. Compiled and exported code keeps all features instead.
        """
        if k is None:
            self._k, self._largest_k = None, 0
        else:
            largest = check_k(k)
            # A tensor, so that another k compiles nothing; a copy, so that nobody changes it from outside.
            with torch.inference_mode(False):  # training may follow, which could not save an inference tensor
                k = k.detach() if isinstance(k, Tensor) else torch.tensor(k, device=self._home)
                self._k, self._largest_k = k.to(self._home, torch.int64, copy=True), largest

    def train(self, mode: bool = True) -> TailDropout:
        """Set training mode and forget k, with a warning if one was set."""
        super().train(mode)
        if self._k is not None and self._held_as is None:
            shown = self._shown_k()
            self.set_k(None)
            warnings.warn(
                f"{'train' if mode else 'eval'}() forgets k={shown}; call set_k after it, or use at_k, which keeps k",
                stacklevel=2,
            )
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Drop the tail of the input's features."""
        if type(input) is not Tensor and (output := self._of_other_type(input)) is not None:
            return output
        if self._k is not None:
            return self._at_k(input, self._k)
        if torch.compiler.is_compiling():
            return self._compiled(input)
        if self.training:
            return drop_tail(input, self._p, self._batch_dims, self.dropout_dim, self.inplace)
        sample_dims(input.dim(), self._batch_dims, self.dropout_dim)  # dims that don't fit are an error here too
        return input

    def _of_other_type(self, input: Any) -> Tensor | None:
        """The output for what is no plain tensor; None for a class of tensor that does not differ here."""
        if in_model(self, input):
            return node(self, input)  # type: ignore[no-any-return]
        is_tensor = isinstance(input, Tensor)
        if self._k is not None and is_tensor and is_jagged(input):
            return self._jagged_at_k(input, self._k)
        if not (self._k is not None and is_tensor) and overridden(input):
            if self._k is not None:
                if self._k.dim():
                    raise TypeError(
                        f"k is {self._shown_k()}, one for each sample, but input is a {type(input).__name__} of unknown shape; "
                        "call set_k with an int, or trace a model that holds the layer"
                    )
                return keep_first(input, self._k, self.dropout_dim)
            options: Any = {"batch_dim": self._batch_dims, "dropout_dim": self.dropout_dim}
            return tail_dropout(input, self._p, self.training, self.inplace, **options)
        check_tensor(input)
        if self._k is None and self.training and is_jagged(input):
            return drop_jagged(input, self._p, self._batch_dims, self.dropout_dim, self.inplace)
        return None

    def _jagged_at_k(self, input: Tensor, k: Tensor) -> Tensor:
        k, feature = self._k_for(input.shape, input.device, k)

        def keep(values: Tensor, spread: Spread) -> Tensor:
            return select(values, spread(k.squeeze(1)) if k.dim() else k, feature - 1)

        return on_components(input, (0,) if k.dim() else (), feature, keep)

    def _at_k(self, input: Tensor, k: Tensor) -> Tensor:
        refuse_strided(input)
        return select(input, *self._k_for(input.shape, input.device, k), self.inplace)

    def _k_for(self, shape: torch.Size, device: torch.device, k: Tensor) -> tuple[Tensor, int]:
        """`k` so that it broadcasts to an input of this shape, and the feature dim from 0."""
        batch, feature = sample_dims(len(shape), self._batch_dims, self.dropout_dim)
        if k.device != device:
            k = k.to(device)
            if type(k) is Tensor and not k.is_meta and not torch.compiler.is_compiling():  # real, and so worth keeping
                self._home, self._k = k.device, k
        if k.dim():
            wanted = constant_sizes([shape[dim] for dim in batch])
            if constant_sizes(k.shape) != wanted:
                raise ValueError(
                    f"k has shape {tuple(k.shape)}, but batch_dim={self.batch_dim} of an input of shape "
                    f"{tuple(shape)} has {wanted}; call set_k with an int or with one k per sample"
                )
            order = sorted(range(k.dim()), key=lambda i: batch[i])
            k = k.permute(order).reshape([size if dim in batch else 1 for dim, size in enumerate(shape)])
        n = shape[feature]
        if type(n) is int and not torch.compiler.is_compiling() and self._largest_k > n:
            of_layer = f" of {self._held_as!r}" if self._held_as else ""
            raise ValueError(
                f"k={self._largest_k} is greater than the {n} features of dropout_dim={self.dropout_dim}{of_layer}; "
                f"call {'set_k' if self._held_as is None else 'at_k'}({n}) or less"
            )
        return k, feature

    def _compiled(self, input: Tensor) -> Tensor:
        shape, feature = sample_shape(input.shape, self._batch_dims, self.dropout_dim)
        if not self.training or input.numel() == 0:
            return input
        if not (input.is_floating_point() or input.is_complex()):
            if self._p == 0:  # read here only: p is guarded where it is read, and another p would compile anew
                return input
            check_float(input)
        look_for_columns(input.dim(), self._batch_dims, self.dropout_dim)
        n = operator.index(input.shape[feature])  # the rate belongs to one n; the batch size may stay dynamic
        self._prepare(n, input.device)
        scale, one_to_n = self._compiled_constants[n, input.device]
        k = exponential_from_uniforms(input, shape, scale)
        return select(input, k, feature, self.inplace, one_to_n)

    @constant_in_graphs  # no root finder in the graph
    def _prepare(self, n: int, device: torch.device) -> None:
        if (n, device) not in self._compiled_constants:
            # C++ made by the compiler loads positions faster than it counts them; a GPU counts.
            one_to_n = positions(n, 0, 1, device) if device.type == "cpu" else None
            self._compiled_constants[n, device] = self._scale(n, device), one_to_n

    def _scale(self, n: int, device: torch.device) -> Tensor:
        scale = 1 / rate(self._p, n) if self._p else float("inf")
        return torch.tensor(scale, dtype=torch.float32, device=device)

    def _apply(self, fn: Any, recurse: bool = True) -> TailDropout:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        home = fn(torch.empty(0, device=self._home)).device
        if home.type != "meta":
            self._home = home
            if self._k is not None:
                self._k = self._k.to(home)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # It may be loaded where this device is not; the next input says where k goes. No `at_k` holds a copy.
        return {**self.__dict__, "_compiled_constants": {}, "_home": torch.device("cpu"), "_held_as": None}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints of the original package hold a k that does not say whether it was set; it never was in training.
        state_dict.pop(prefix + "k", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The arguments that construct this layer; and k, if it is set."""
        inplace = ", inplace=True" if self.inplace else ""
        shown = f"p={self.p}, batch_dim={self.batch_dim}, dropout_dim={self.dropout_dim}{inplace}"
        return shown if self._k is None else f"{shown}; k={self._shown_k()}"

    def _shown_k(self) -> str:
        assert self._k is not None
        return str(self._largest_k) if self._k.dim() == 0 else f"a tensor of shape {tuple(self._k.shape)}"

    __prepare_scriptable__ = refuse_script  # which `torch.jit.script` calls first
