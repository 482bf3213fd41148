"""Models of timm, from `insert_dropout` to a pruned model that is loaded again."""

from collections.abc import Callable
from pathlib import Path

import page
import pytest
import torch
from pipeline import Subject, check_whole_way
from torch import nn

pytestmark = pytest.mark.ecosystem

PLACEMENTS = page.placements("timm")
# The classes of each model, and what builds a small one. Layer scale would hide what the blocks of a ConvNeXt add.
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_classes": 5}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "num_classes": 5, "ls_init_value": 1.0}
RESNET = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "num_classes": 5}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "VisionTransformer": ("VisionTransformer", {**VIT, "depth": 2, "num_heads": 4}),
    "MlpMixer": ("MlpMixer", {**VIT, "num_blocks": 2}),
    "ConvNeXt with conv_mlp=True": ("ConvNeXt", {**CONVNEXT, "conv_mlp": True}),
    "ConvNeXt with conv_mlp=False": ("ConvNeXt", {**CONVNEXT, "conv_mlp": False}),
    "ResNet of basic blocks": ("BasicBlock", RESNET),
    "ResNet of bottlenecks": ("Bottleneck", RESNET),
}


def builder(model: str) -> Callable[[], nn.Module]:
    page.require("timm")
    from timm.models import convnext, mlp_mixer, resnet, vision_transformer

    name, arguments = MODELS[model]
    if name in ("BasicBlock", "Bottleneck"):
        return lambda: resnet.ResNet(getattr(resnet, name), **arguments)
    home = {"VisionTransformer": vision_transformer, "MlpMixer": mlp_mixer, "ConvNeXt": convnext}[name]
    return lambda: getattr(home, name)(**arguments)


def test_the_table_of_the_page_has_these_models() -> None:
    assert PLACEMENTS.keys() == MODELS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_the_whole_way(model: str, tmp_path: Path) -> None:
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(5, (4,))) for _ in range(2)]
    check_whole_way(Subject(builder(model), PLACEMENTS[model], batches, nn.functional.cross_entropy), tmp_path)
