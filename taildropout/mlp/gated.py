"""GatedTailMLP: a gated feed-forward block, computed only for the hidden features that TailDropout keeps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..distribution import check_n
from ..layer import TailDropout
from .block import check_activation, check_bias
from .skipping import Parts, skipping_output


class GatedTailMLP(nn.Module):
    r"""`down_proj(dropout(activation(gate_proj(x)) * up_proj(x)))` without dropped features: SwiGLU for SiLU, GEGLU for GELU.

    Where that is faster, dropped features are computed neither forward nor backward, as in `TailMLP`. The result equals that of
    the modules one after the other with the same random numbers, up to rounding. The three Linears have the names that
    checkpoints of Llama, Gemma, Qwen and Mistral use. The block is Shazeer's (2020, "GLU variants improve transformer").

    Args:
        in_features: number of features of the input.
        hidden_features: number n of hidden features, of which TailDropout keeps the first K.
        out_features: number of features of the output.
        activation: an elementwise module, such as `nn.SiLU()`; f(0) need not be 0.
        p: drop probability: the expected share of hidden features dropped.
        bias: if True, the three Linears have a bias. Default: False
        batch_dim: the dim or dims whose every index is a sample with its own K; `()` draws one K for the whole input; None
            means all dims but the last. Default: None

    Raises:
        TypeError: if a number of features is not an int, `activation` is not a module, `bias` is not a bool, or `p` or
            `batch_dim` has a wrong type.
        ValueError: if a number of features is below 1, `p` is outside [0, 1], or dims repeat.

    Shape:
        Input: :math:`(*, \text{in\_features})`. Output: :math:`(*, \text{out\_features})`.

    Examples:
        >>> block = GatedTailMLP(16, 64, 16, activation=nn.SiLU(), p=0.5)
        >>> block(torch.randn(20, 16)).shape
        torch.Size([20, 16])
        >>> block.eval().dropout.set_k(8)
        >>> output = block(torch.randn(20, 16))  # uses the first 8 of 64 hidden features
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: nn.Module,
        p: float,
        bias: bool = False,
        batch_dim: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_bias(bias)
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        inner, hidden, outer = (check_n(size, name) for name, size in sizes.items())
        self.gate_proj = nn.Linear(inner, hidden, bias)
        self.activation = check_activation(activation)
        self.up_proj = nn.Linear(inner, hidden, bias)
        self.dropout = TailDropout(p, batch_dim)
        self.down_proj = nn.Linear(hidden, outer, bias)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the modules; where that is faster, by a ragged product with the same result up to rounding."""
        parts = Parts(self.gate_proj, self.activation, self.dropout, self.down_proj, self.up_proj)
        output = skipping_output(parts, input)
        return self.modules_output(input) if output is None else output

    def modules_output(self, input: Tensor) -> Tensor:
        """Apply the modules one after the other, computing everything."""
        hidden = self.activation(self.gate_proj(input)) * self.up_proj(input)
        return self.down_proj(self.dropout(hidden))  # type: ignore[no-any-return]
