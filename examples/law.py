"""Draw the README's picture: the masks of TailDropout and of nn.Dropout, and the law of K.

python -m examples.law        writes examples/figures/law.png
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from torch import nn

from taildropout import CensoredGeometric, TailDropout

SAMPLES, FEATURES, P = 24, 32, 0.5
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#E6E6E6"  # distinguishable with red-green colour blindness


def main() -> None:
    """Draw the figure."""
    torch.manual_seed(4)
    figure, (plain, tail, law) = plt.subplots(
        1, 3, figsize=(10, 3), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1.15]}
    )
    ones = torch.ones(SAMPLES, FEATURES)
    for axes, layer, colour in [(plain, nn.Dropout(P), ORANGE), (tail, TailDropout(P), BLUE)]:
        axes.imshow(
            layer(ones) != 0, cmap=ListedColormap([GREY, colour]), aspect="auto", interpolation="nearest", vmin=0, vmax=1
        )
        axes.set(title=f"{type(layer).__name__}(p={P})", xlabel="feature", xticks=[0, 15, 31], xticklabels=[1, 16, 32])
        axes.set(yticks=[0, SAMPLES - 1], yticklabels=[1, SAMPLES])
    plain.set_ylabel("sample")

    widths = torch.arange(FEATURES + 1)
    for p, colour, marker in [(0.5, BLUE, "o"), (0.1, ORANGE, "^")]:
        law.plot(
            widths, CensoredGeometric(p, FEATURES).log_prob(widths).exp(), marker, color=colour, markersize=4, label=f"p = {p}"
        )
    law.set(title=f"the law of K, {FEATURES} features", xlabel="features kept, k", ylabel="P(K = k)", yscale="log")
    law.set(xticks=[0, 8, 16, 24, 32])
    law.legend(frameon=False, loc="upper left")
    law.spines[["top", "right"]].set_visible(False)

    path = Path(__file__).with_name("figures") / "law.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
