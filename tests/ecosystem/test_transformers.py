"""Models of Hugging Face transformers, from `insert_dropout` to a pruned model that is loaded again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import page
import pytest
import torch
from pipeline import Subject, check_whole_way
from torch import nn

from taildropout import prune

pytestmark = pytest.mark.ecosystem

VOCABULARY = 64
PLACEMENTS = page.placements("transformers")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FEED_FORWARD = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = {**FEED_FORWARD, **TOKENS, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "head_dim": 8}
WHISPER = {
    **{
        f"{part}_{key}": value
        for part in ("encoder", "decoder")
        for key, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
    },
    **{"d_model": 32, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16},
}
GEMMA_3N = {
    **GATED,
    "intermediate_size": [48, 48],  # a width for each layer
    "activation_sparsity_pattern": [0.0, 0.0],
    "layer_types": ["full_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
}
# The config of each model, and its arguments.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", GATED),
    "GemmaForCausalLM": ("GemmaConfig", GATED),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", GATED),
    "Gemma3nForCausalLM": ("Gemma3nTextConfig", GEMMA_3N),
    "Qwen3ForCausalLM": ("Qwen3Config", GATED),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, **TOKENS}),
    "BertForMaskedLM": ("BertConfig", {**FEED_FORWARD, "vocab_size": VOCABULARY}),
    "ViTForImageClassification": ("ViTConfig", {**FEED_FORWARD, "image_size": 16, "patch_size": 8, "num_labels": 5}),
    "T5ForConditionalGeneration": (
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**WHISPER, **TOKENS, "vocab_size": VOCABULARY, "decoder_start_token_id": 1},
    ),
}


def batches(model: str) -> list[dict[str, Any]]:
    """Two batches of random tokens, images or spectrograms."""
    made = []
    for _ in range(2):
        ids = torch.randint(3, VOCABULARY, (3, 8))
        if model.startswith("ViT"):
            made.append({"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.randint(5, (3,))})
        elif model.startswith("Whisper"):
            made.append({"input_features": torch.randn(3, 8, 20), "labels": ids})
        else:
            made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    return made


def builder(model: str) -> Callable[[], nn.Module]:
    page.require("transformers")
    import transformers

    config, arguments = CONFIGS[model]
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**arguments))


def test_the_table_of_the_page_has_these_models() -> None:
    assert PLACEMENTS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("model", CONFIGS)
def test_the_whole_way(model: str, tmp_path: Path) -> None:
    check_whole_way(Subject(builder(model), PLACEMENTS[model], batches(model)), tmp_path)


@pytest.mark.parametrize("model", CONFIGS)
def test_from_pretrained_builds_a_model_whose_layers_have_one_width(model: str, tmp_path: Path) -> None:
    """The config holds the width, so that loading needs nothing of this package."""
    subject = Subject(builder(model), PLACEMENTS[model], batches(model))
    small: Any = prune(subject.model.eval(), {"*": 12}, subject.example)
    small.save_pretrained(tmp_path)
    loaded = type(small).from_pretrained(tmp_path).eval()
    for batch in subject.batches:
        subject.check_equal(loaded, {"*": 12}, batch)


def test_another_width_is_not_taken_for_equal() -> None:
    subject = Subject(builder("LlamaForCausalLM"), PLACEMENTS["LlamaForCausalLM"], batches("LlamaForCausalLM"))
    small = subject.cut({"*": 12})
    with pytest.raises(AssertionError):
        subject.check_equal(small, {"*0.mlp*": 11, "*1.mlp*": 12}, subject.batches[0])
