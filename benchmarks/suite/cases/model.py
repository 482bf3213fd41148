"""Prepare and check a case that trains a model with the layer in it.

`block` is Linear, GELU, dropout, Linear. `feedforward` is the block of a transformer, four times as wide inside, with a TailMLP
instead of TailDropout; `gated` is the same with a GatedTailMLP. These run forward and backward; the other models also take an
optimiser's step.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn

from .building import build_layer, compiled, feature
from .case import DTYPES, Case, WrongResult
from .layer import CALLS_BEFORE_TIMING, check_draws, check_prefix, require

Step = Callable[[], torch.Tensor]


def make(case: Case, package: ModuleType | None) -> Step:
    """Prepare and check a case that trains a model; see `prepare.make`."""
    run, model, call, x = prepare(case, package)
    for _ in range(CALLS_BEFORE_TIMING):
        loss = run()
    require(bool(torch.isfinite(loss)), case, f"the loss is {loss.item()}")
    if case.model == "block":
        check_block(case, model, call, x)
    else:
        check_inside(case, model, x)
    if case.model == "feedforward":
        check_plain(case, model, x)
    return run


def prepare(case: Case, package: ModuleType | None) -> tuple[Step, nn.Module, Callable[..., torch.Tensor], torch.Tensor]:
    """Return a callable for one step, the model, the (compiled) model to call, and the input, without calling any of them."""
    model = build(case, package).to(case.device, DTYPES[case.dtype])
    x = torch.randn(case.shape, device=case.device, dtype=DTYPES[case.dtype])
    call = compiled(case, model)
    run = (block_step if case.model in ("block", "feedforward", "gated") else training_step)(model, call, x)
    return run, model, call, x


def build(case: Case, package: ModuleType | None) -> nn.Module:
    """Return the case's model for an input of `case.shape`, with the case's layer in it."""
    dropout, width = build_layer(case, package), case.n
    if case.model == "block":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), dropout, nn.Linear(width, width))
    if case.model == "feedforward":
        if case.layer == "TailDropout":
            tail_mlp: type[nn.Module] = feature(package, "TailMLP")
            return tail_mlp(width, 4 * width, width, activation=nn.GELU(), p=case.p)
        return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), dropout, nn.Linear(4 * width, width))
    if case.model == "gated":
        gated: nn.Module = feature(package, "GatedTailMLP")(width, 4 * width, width, activation=nn.SiLU(), p=case.p)
        if case.layer != "TailDropout":
            gated.dropout = dropout  # computes everything
        return gated
    if case.model in ("mlp", "data_parallel"):
        return nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), dropout, nn.Linear(512, 10))
    if case.model == "conv":
        body = [nn.Conv2d(width, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), dropout, nn.Conv2d(64, 32, 3, padding=1)]
        return nn.Sequential(*body)
    if case.model == "transformer":
        encoder = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        encoder.dropout = dropout  # type: ignore[assignment]  # the feed-forward's hidden features
        return encoder
    raise ValueError(f"model={case.model!r} of case {case.name} is not known")


def block_step(model: nn.Module, call: Callable[..., torch.Tensor], x: torch.Tensor) -> Step:
    """Return a callable for forward and backward that returns the gradients instead of accumulating them."""
    weights = list(model.parameters())

    def run() -> torch.Tensor:
        loss = call(x).float().square().mean()
        torch.autograd.grad(loss, weights)
        return loss.detach()

    return run


def training_step(model: nn.Module, call: Callable[..., torch.Tensor], x: torch.Tensor) -> Step:
    """Return a callable for a step of gradient descent, with a learning rate so small that the weights hardly change."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        loss = call(x).float().square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return run


def check_block(case: Case, model: nn.Module, call: Callable[..., torch.Tensor], x: torch.Tensor) -> None:
    """Check the (compiled) block: with the identity as its last Linear, its output is that of its dropout."""
    last: nn.Linear = model[-1]  # type: ignore[index]
    before = {name: value.clone() for name, value in last.state_dict().items()}
    last.load_state_dict({"weight": torch.eye(case.n), "bias": torch.zeros(case.n)})
    shown = call(x).detach()
    last.load_state_dict(before)
    if case.layer == "TailDropout":
        check_kept(case, shown)
    else:
        dropped = (shown == 0).double().mean().item()
        expected = case.p if case.layer == "nn.Dropout" else 0.0
        require(abs(dropped - expected) < 0.05, case, f"zeroes {dropped:.3f} of the features, not {expected}")


def check_plain(case: Case, model: nn.Module, x: torch.Tensor) -> None:
    """Check that a block that skips dropped features gives the output of its modules in sequence, for the same draws."""
    outputs = []
    for each in (model, nn.Sequential(*model)):  # type: ignore[misc]
        torch.manual_seed(1)
        outputs.append(each(x).detach().float())
    wrong = (outputs[0] - outputs[1]).norm() / outputs[1].norm()
    require(bool(wrong < 2 * torch.finfo(DTYPES[case.dtype]).eps ** 0.5), case, f"differs from its modules by {wrong:.2g}")


def check_inside(case: Case, model: nn.Module, x: torch.Tensor) -> None:
    """Check input and output of the TailDropout in a model, during one eager forward: 0 or the input, and a prefix."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    layers = [m for m in model.modules() if type(m).__name__ == "TailDropout"]
    hooks = [m.register_forward_hook(lambda m, args, out: seen.append((args[0].detach(), out.detach()))) for m in layers]
    model(x)
    for hook in hooks:
        hook.remove()
    if case.layer == "TailDropout" and len(seen) != 1:
        raise WrongResult(f"{case.name}: its TailDropout was called {len(seen)} times in a step, not once")
    for before, after in seen:
        require(torch.equal(after, torch.where(after != 0, before, 0)), case, "an output is neither 0 nor the input")
        check_kept(case, torch.where(before == 0, torch.ones_like(after), after), zeros_in=before == 0)


def check_kept(case: Case, output: torch.Tensor, zeros_in: torch.Tensor | None = None) -> None:
    """Check that the kept features, those not 0 in `output`, are a prefix.

    Features that `zeros_in` marks were 0 in the input and are ignored. Without `zeros_in`, check the draws of k, too.
    """
    kept = (output != 0).movedim(case.dropout_dim, -1)
    if zeros_in is None:
        check_prefix(kept, case)
        check_draws(case, kept.sum(-1))
        return
    unseen = zeros_in.movedim(case.dropout_dim, -1)
    dropped = (~kept & ~unseen).cumsum(-1) > 0
    require(not bool((dropped & kept & ~unseen).any()), case, "the kept features are no prefix")
