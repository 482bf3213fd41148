"""The network that prune returns is compared with the model, whatever was cut or removed."""

import pytest
import torch
from package.pruning.pruned import checked, evaluated, gru, mlp, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, prune


def test_a_slice_stays_a_slice_where_the_layer_is_removed() -> None:
    with pytest.warns(UserWarning, match="slices 5 of 8"):
        first = prune(gru(8).double(), "drop", 5, x(4, 2, 5))
    second = checked(first, "drop", 5, x(4, 2, 5), remove=True)
    assert repr(second.drop) == "Slice(features=5, dim=2)"
    with pytest.warns(UserWarning, match="slices 2 of 5"):
        third = checked(first, "drop", 2, x(4, 2, 5), remove=True)
    assert repr(third.drop) == "Slice(features=2, dim=2)"


class Doubling(TailDropout):
    """A layer that is not the identity in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Reading(nn.Sequential):
    """A network that reads p of its layer."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self[2].p


@pytest.mark.parametrize("k", [3, 8])
def test_the_network_without_its_layers_is_compared(k: int) -> None:
    model, input = mlp(), x()
    model[2] = Doubling()
    torch.testing.assert_close(evaluated(prune(model, "2", k, input), input), evaluated(model, input, k=k, layer="2"))
    with pytest.raises(PruningError, match=r"without its layers the network changes: an output .* give remove=False"):
        prune(model, "2", k, x(), remove=True)
    with pytest.raises(PruningError, match=r"the network fails \(AttributeError: 'Identity' .* 'p'\); .*give remove=False"):
        prune(Reading(*mlp()), "2", k, x(), remove=True)


def test_a_copy_that_computes_something_else_is_refused() -> None:
    model = mlp()
    model[1].register_forward_hook(lambda module, args, output: output + torch.rand(1))
    with pytest.raises(PruningError, match=r"as a copy the network changes: .* make it deterministic"):
        prune(model, "2", 8, x())
