"""Arguments that prune refuses, and what it says without torch-pruning."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from package.pruning.pruned import count, followed, mlp, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, prune
from taildropout.pruning import graph as dependencies


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the model is compiled; prune .*_orig_mod"):
        prune(torch.compile(mlp(), backend="eager"), "_orig_mod.2", 3, x())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0 leaves no feature"),
        ({"k": 9}, ValueError, "k=9 is greater than the 8 features of '2'; give 8 or less"),
        ({"k": -1}, ValueError, "negative"),
        ({"k": 2.0}, TypeError, "k=2.0 has type float; give an int$"),
        ({"k": True}, TypeError, "bool"),
        ({"k": torch.tensor(3)}, TypeError, "k is a tensor; .* give an int"),
        ({"k": None}, TypeError, "k=None has type NoneType; give an int$"),
        ({"layer": "0"}, KeyError, "no TailDropout is named '0'; those of Sequential are: '2'"),
        ({"layer": "none"}, KeyError, "no TailDropout is named"),
        ({"layer": TailDropout()}, ValueError, "layer is not in the model .*'2'"),
        ({"layer": nn.Linear(2, 2)}, TypeError, "layer has type Linear; give a TailDropout"),
        ({"layer": 2}, TypeError, "layer has type int; give"),
        ({"layer": ["2"]}, TypeError, "layer has type list; .*for several layers give a dict of widths"),
        ({"model": nn.Linear(5, 2)}, ValueError, "Linear has no TailDropout"),
        ({"model": "model"}, TypeError, "^model has type str; give an nn.Module$"),
        ({"example_inputs": None}, TypeError, "example_inputs has type NoneType; give a tensor"),
        ({"example_inputs": np.ones((3, 4))}, TypeError, r"NumPy array; give tensors: torch\.from_numpy"),
        ({"example_inputs": torch.ones(3, 4).double()}, RuntimeError, "shapes cannot be multiplied"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"model": mlp(), "layer": "2", "k": 3, "example_inputs": x(), **change}
    with pytest.raises(error, match=message):
        prune(**arguments)


def test_a_layer_that_is_the_model_or_is_not_called() -> None:
    with pytest.raises(PruningError, match="output"):
        prune(TailDropout(), "", 3, x())
    model = followed(nn.Linear(5, 2), wiring=lambda m, x: m.after(x))
    with pytest.raises(ValueError, match="'drop' was not called"):
        prune(model, "drop", 3, x().float())


def test_without_torch_pruning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert count(prune(mlp(), "2", 8, x())) == count(mlp())  # where nothing is cut, nothing is missing
    with pytest.raises(ImportError, match=r"pip install 'taildropout\[prune\]'"):
        prune(mlp(), "2", 3, x())
    assert not hasattr(dependencies, "torch_pruning")  # imported when it is needed, so that the package needs torch alone


def test_what_torch_pruning_cannot_follow_is_a_pruning_error() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.dropout, self.last = nn.Linear(8, 16), TailDropout(), nn.Linear(24, 3)

        def forward(self, input: Tensor) -> Any:
            return self.last(torch.cat([self.dropout(self.first(input)), input], -1))

    with pytest.raises(PruningError, match=r"torch-pruning cannot follow .* concatenation with a tensor that no layer made"):
        prune(Skip(), "dropout", 5, torch.randn(4, 8))
