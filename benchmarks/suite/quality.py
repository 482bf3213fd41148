"""Do networks still learn well and in order with the layer? A commit that keeps the speed and breaks learning shows here.

All data are synthetic and seeded; each figure is a mean over a few seeds, computed on one thread. A version that only draws
other random numbers changes a figure by about the standard deviation given beside it. Lower is better for every figure.
"""

from statistics import fmean
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from .cases import WrongResult, feature
from .subject import package

SEEDS = (0, 1, 2)


class Quality:
    """How well do small networks with the layer learn, and how well ordered are their features?"""

    version = "1"

    def track_mlp_test_error(self) -> float:
        """Return the test error at full width: about .125 ± .004; .112 without dropout, .25 if nine tenths were dropped."""
        return fmean(mlp_scree(seed, package())[-1] for seed in SEEDS)

    def track_mlp_scree_area(self) -> float:
        """Return the mean test error over all widths, 0 included: about .24 ± .006; .4 and more if features have no order."""
        return fmean(sum(scree) / len(scree) for scree in (mlp_scree(seed, package()) for seed in SEEDS))

    def track_pca_recovery_error(self) -> float:
        """Return the mean 1 − |cos| between a linear autoencoder and PCA: about .003 ± .002; .7 without order."""
        return fmean(pca_error(seed, package()) for seed in SEEDS)

    def track_learned_dropout_ones(self) -> float:
        """Return the share of features LearnedDropout keeps if a quarter matters: about .38 ± .05; .67 without penalty."""
        return fmean(learned_ones(seed, package()) for seed in SEEDS)

    track_mlp_test_error.unit = "share of errors"  # type: ignore[attr-defined]
    track_mlp_scree_area.unit = "share of errors"  # type: ignore[attr-defined]
    track_pca_recovery_error.unit = "1 - cos"  # type: ignore[attr-defined]
    track_learned_dropout_ones.unit = "share of features"  # type: ignore[attr-defined]


def one_thread(seed: int) -> None:
    """Use one thread and seed torch, so that a figure is repeatable."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)


def mlp_scree(seed: int, package: ModuleType) -> list[float]:
    """Return test errors at widths 0 … 64 of a 20–64–10 MLP with TailDropout(.5): ten classes, three Gaussian clusters each."""
    layer = feature(package, "TailDropout")(0.5)
    set_k = feature(layer, "set_k")
    one_thread(seed)
    inputs, classes, hidden, train = 20, 10, 64, 2000
    centres = torch.randn(3 * classes, inputs)
    cluster = torch.randint(3 * classes, (3 * train,))
    x, y = centres[cluster] + torch.randn(3 * train, inputs), cluster % classes
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), layer, nn.Linear(hidden, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        batch = torch.randint(train, (256,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    model.eval()
    errors = []
    with torch.no_grad():
        for k in range(hidden + 1):
            set_k(k)
            errors.append((model(x[train:]).argmax(1) != y[train:]).float().mean().item())
    return errors


def pca_error(seed: int, package: ModuleType) -> float:
    """Return the mean of 1 − |cos| between decoder columns and principal components, for a 12–6–12 linear autoencoder.

    Since every width occurs, the optimum is the best rank-k approximation at every k: feature j is component j.
    """
    one_thread(seed)
    inputs, hidden, steps = 12, 6, 1500
    basis = torch.linalg.qr(torch.randn(inputs, inputs)).Q
    x = torch.randn(512, inputs) * 0.7 ** torch.arange(inputs) @ basis.T
    x = x - x.mean(0)
    components = torch.linalg.svd(x, full_matrices=False).Vh[:hidden]
    layer = feature(package, "TailDropout")(0.5)
    model = nn.Sequential(nn.Linear(inputs, hidden, bias=False), layer, nn.Linear(hidden, inputs, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x).square().sum(1).mean().backward()
        optimizer.step()
        schedule.step()
    decoder = model.get_parameter("2.weight").detach().T
    return float((1 - F.cosine_similarity(decoder, components).abs()).mean())


def learned_ones(seed: int, package: ModuleType) -> float:
    """Return the share of features that LearnedDropout keeps in evaluation, after a regression that needs 4 of 16 features.

    The loss includes the penalty. Raises WrongResult if the regression fails: dropping everything would give the least share.
    """
    make = feature(feature(package, "baselines"), "LearnedDropout")
    one_thread(seed)
    x = torch.randn(64, 16, 16)
    y = x[..., :4] @ torch.tensor([1.0, -1.0, 2.0, 1.5])
    dropout, linear = make(16, 2), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*dropout.parameters(), *linear.parameters()], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        error = (linear(dropout(x))[..., 0] - y).square().mean() / y.var()
        (error + dropout.penalty()).backward()
        optimizer.step()
    dropout.eval()
    with torch.no_grad():
        left = float((linear(dropout(x))[..., 0] - y).square().mean() / y.var())
    if not left < 0.2:
        raise WrongResult(f"the regression leaves {left:.2f} of the variance, so that the share of features kept says nothing")
    return float(dropout.share_of_ones)
