"""The way from a full network to a pruned one that is loaded again, the same for every library."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taildropout import TailDropout, at_k, frontier, insert_dropout, load_pruned, prune, scree

STEPS = 3
EXACT = 1e-3  # of what cutting changes: float32 rounds to less, and one wrong feature makes more


class Subject:
    """A model of some library, and how it is called.

    `build` gives the model with random weights, `place` holds the arguments of `insert_dropout`, `batches` are two batches, and
    `loss` is called as by `scree`; None means the model's own.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        place: Mapping[str, Any],
        batches: list[Any],
        loss: Callable[..., Any] | None = None,
    ) -> None:
        self.build, self.place, self.batches, self.loss = build, place, batches, loss
        self.model = self.inserted().eval()
        self.layers = [name for name, module in self.model.named_modules() if isinstance(module, TailDropout)]

    def inserted(self) -> nn.Module:
        """Return a new model with layers inserted, and weights large enough that a dropped feature shows."""
        model = self.build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("weight") and parameter.dim() > 1:
                    parameter.normal_(0, (parameter.numel() / len(parameter)) ** -0.5)
        keys = list(model.state_dict())
        insert_dropout(model, **self.place)
        assert list(model.state_dict()) == keys
        return model

    def run(self, model: nn.Module, batch: Any) -> Any:
        return model(**batch) if isinstance(batch, dict) else model(batch[0])

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            output = self.run(model, batch)
        return output if isinstance(output, Tensor) else output.logits

    @property
    def example(self) -> Any:
        """Example inputs, for `prune`."""
        batch = self.batches[0]
        return batch if isinstance(batch, dict) else batch[0]

    def train(self) -> None:
        """Take a few steps of gradient descent, and return to evaluation."""
        optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        self.model.train()
        for _ in range(STEPS):
            for batch in self.batches:
                output = self.run(self.model, batch)
                loss = output.loss if self.loss is None else self.loss(output, batch[1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert loss.isfinite()
        self.model.eval()

    def check_scree(self) -> None:
        """The loss at a width is that under `at_k`."""
        (layer, *_), batch = self.layers, self.batches[0]
        result = scree(self.model, [layer], [batch], self.loss, widths="log", progress=False)[layer]
        with at_k(self.model, {layer: 4}), torch.no_grad():
            output = self.run(self.model, batch)
        loss = output.loss if self.loss is None else self.loss(output, batch[1])
        torch.testing.assert_close(result[4], float(loss), rtol=1e-4, atol=1e-5)

    def chosen(self) -> dict[str, int]:
        """Return widths by layer, as `frontier` chooses them."""
        curve = frontier(
            self.model, self.batches, self.loss, self.example, sizes=4, max_forwards=12 + len(self.layers), progress=False
        )
        assert curve.points[0].cost < curve.full.cost
        return curve.choose(cost=0.9)

    def cut(self, widths: Mapping[str, int]) -> nn.Module:
        """Prune to widths by layer; the result is smaller, and gives what the model gives under `at_k`."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the config of")  # which cannot hold a width for each layer
            small = prune(self.model, widths, self.example)
        assert sum(each.numel() for each in small.parameters()) < sum(each.numel() for each in self.model.parameters())
        for batch in self.batches:
            self.check_equal(small, widths, batch)
        return small

    def check_equal(self, small: nn.Module, widths: Mapping[str, int], batch: Any) -> None:
        """The outputs differ by rounding, which is little beside what cutting changes."""
        full = self.output(self.model, batch)
        with at_k(self.model, dict(widths)):
            expected = self.output(self.model, batch)
        changed = (full - expected).abs().max()
        assert changed > 0
        assert (self.output(small, batch) - expected).abs().max() <= EXACT * changed

    def check_loading(self, small: nn.Module, folder: Path) -> None:
        """A model of full size takes the stored weights of the pruned one, from either kind of file."""
        from safetensors.torch import load_file, save_model

        torch.save(small.state_dict(), folder / "small.pt")
        save_model(small, str(folder / "small.safetensors"))
        for weights in (torch.load(folder / "small.pt"), load_file(folder / "small.safetensors")):
            loaded = load_pruned(self.inserted(), weights).eval()
            for batch in self.batches:
                assert torch.equal(self.output(loaded, batch), self.output(small, batch))


def check_whole_way(subject: Subject, folder: Path) -> None:
    """Insert, train, look at all widths, choose, cut, store, load: the result is what `at_k` gives."""
    assert len(subject.layers) >= 2
    subject.train()
    subject.check_scree()
    small = subject.cut(subject.chosen())
    subject.check_loading(small, folder)
