"""Tiny vision-language models with random weights and the processors that go with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Idefics3Config,
    LlavaConfig,
    LlavaNextConfig,
    PaliGemmaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
)

from tests.models import _save, _write_json, byte_tokenizer


def write_vision_lm(folder: Path, family: str = "llava", *, chat: bool = True) -> Path:
    """A tiny vision-language model with its processor, of a family of VISION_FAMILIES, for images of any size."""
    tokenizer = byte_tokenizer(chat=False, more=_VISION_TOKENS)
    torch.manual_seed(4)
    config, processor = VISION_FAMILIES[family](tokenizer, tokenizer.convert_tokens_to_ids)
    model = AutoModelForImageTextToText.from_config(config)
    for name, weight in model.named_parameters():
        # left at zero, it would hide every image
        if name.endswith("mm_input_projection_weight"):
            torch.nn.init.normal_(weight)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    _save(folder, model, tokenizer)
    _write_json(folder / "preprocessor_config.json", {**processor.pop("image_processor"), **processor})
    _write_json(folder / "processor_config.json", processor)
    if family == "gemma3":
        names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
        file = folder / "tokenizer_config.json"
        _write_json(file, {**json.loads(file.read_text()), "extra_special_tokens": names})
    if chat:
        template = VISION_CHAT_TEMPLATE.replace("<image>", PLACEHOLDERS.get(family, "<image>"))
        (folder / "chat_template.jinja").write_text(template)
    return folder


VISION_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_VISION_TOKENS = [
    "<image>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<end_of_utterance>",
    "<fake_token_around_image>", "<global-img>", *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)),
    "<start_of_image>", "<end_of_image>", "<image_soft_token>",
]  # fmt: skip
_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
#: what a chat template writes where an image stands, for families that have no <image>
PLACEHOLDERS = {"qwen2_vl": _QWEN, "qwen2_5_vl": _QWEN, "qwen3_vl": _QWEN, "gemma3": "<start_of_image>"}


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def _vision_config(size: int) -> dict[str, object]:
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": size, "patch_size": 8, "initializer_range": 0.3,
    }  # fmt: skip


def _llava(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_vision_config(16)},
        text_config={"model_type": "llama", **_text_config(tokenizer)},
        image_token_index=id_of("<image>"),
        vision_feature_layer=-1,
    )
    image = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
    more = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    return config, {"processor_class": "LlavaProcessor", "image_processor": image, **more}


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    return _qwen(Qwen2VLConfig, {"embed_dim": 32}, tokenizer, id_of)


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    windows = {"window_size": 32, "fullatt_block_indexes": [1]}
    vision = {"out_hidden_size": 32, "intermediate_size": 64, **windows}
    return _qwen(Qwen2_5_VLConfig, vision, tokenizer, id_of)


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    stack = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    vision = {"out_hidden_size": 32, "intermediate_size": 64, **stack}
    return _qwen(Qwen3VLConfig, vision, tokenizer, id_of)


def _qwen(
    kind: type[PreTrainedConfig], vision: dict[str, object], tokenizer: PreTrainedTokenizerFast, id_of: Callable
) -> tuple[PreTrainedConfig, dict[str, object]]:
    shared = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "initializer_range": 0.3}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    config = kind(
        vision_config={**shared, **vision},
        text_config={**_text_config(tokenizer), "head_dim": 8, "rope_parameters": rope},
        **{f"{medium}_token_id": id_of(name) for medium, name in names.items()},
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
    )
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    image = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 8, "size": size}
    return config, {"processor_class": kind.__name__.replace("Config", "Processor"), "image_processor": image}


def _llava_next(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    tiles = [[16, 32], [32, 16], [32, 32]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_vision_config(16)},
        text_config={"model_type": "llama", **_text_config(tokenizer)},
        image_token_index=id_of("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=tiles,
    )
    image = {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
    more = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    image_processor = {**image, "image_grid_pinpoints": tiles}
    return config, {"processor_class": "LlavaNextProcessor", "image_processor": image_processor, **more}


def _idefics3(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    config = Idefics3Config(
        vision_config=_vision_config(16),
        text_config={"model_type": "llama", **_text_config(tokenizer)},
        image_token_id=id_of("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    image = {"image_processor_type": "Idefics3ImageProcessor", **sizes}
    return config, {"processor_class": "Idefics3Processor", "image_processor": image, "image_seq_len": 1}


def _gemma3(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    text = {"head_dim": 8, "query_pre_attn_scalar": 8, **layers}
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **_vision_config(16)},
        text_config={"model_type": "gemma3_text", **_text_config(tokenizer), **text},
        mm_tokens_per_image=4,
        boi_token_index=id_of("<start_of_image>"),
        eoi_token_index=id_of("<end_of_image>"),
        image_token_index=id_of("<image_soft_token>"),
        initializer_range=0.3,
    )
    image = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 16, "width": 16}}
    return config, {"processor_class": "Gemma3Processor", "image_processor": image, "image_seq_length": 4}


def _paligemma(tokenizer: PreTrainedTokenizerFast, id_of: Callable) -> tuple[PreTrainedConfig, dict[str, object]]:
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **_vision_config(16)},
        text_config={"model_type": "gemma", **_text_config(tokenizer), "head_dim": 8},
        image_token_index=id_of("<image>"),
        projection_dim=32,
    )
    image = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}}
    return config, {"processor_class": "PaliGemmaProcessor", "image_processor": {**image, "image_seq_length": 4}}


VISION_FAMILIES = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "idefics3": _idefics3,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
}
