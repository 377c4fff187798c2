"""A vision-language model of 0.3 million parameters: Qwen2-VL with random weights, made here.

It speaks nonsense, but it is a real checkpoint that the real vLLM loads and serves: images, chat
template, schemas and limits are the production ones. The weights are seeded and wide enough that
what it says depends on what it is shown. Nothing is downloaded; the same bytes come out every time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATCH, TEMPORAL_PATCH, MERGE = 14, 2, 2
MAX_LENGTH = 16384
SEED = 20250216
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)

# Messages as vLLM hands them to the template: text, or parts of which some are images.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ("image", "image_url") -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""


def build_tiny_vlm(folder: Path) -> Path:
    """Write configuration, tokenizer and weights (1 MB) into a new folder and return it."""
    folder.mkdir(parents=True)
    ids = _write_tokenizer(folder)
    foreign = [ids[letter] for letter in ids if letter not in SPECIAL and _is_foreign(letter)]
    _write_weights(folder, _model_config(ids), foreign)
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    _write(
        folder / "generation_config.json",
        {"eos_token_id": end, "pad_token_id": pad, "do_sample": False},
    )
    for name, kind in (("preprocessor", "Image"), ("video_preprocessor", "Video")):
        _write(folder / f"{name}_config.json", _processor_config(kind))
    return folder


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """One token per byte: no training whose ties could break differently.

    Control characters have none, save the line feed. A trained model never says them, but a random
    one would, and xgrammar's strings with a length limit let them through.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    mute = {_spelled(chr(n)) for n in (*range(32), 127) if n != ord("\n")}
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - mute)
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers' own omission
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 a token of text, not a password
        pad_token="<|endoftext|>",  # noqa: S106 as above
        model_max_length=MAX_LENGTH,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def _is_foreign(letter: str) -> bool:
    """Whether a byte, as the tokenizer spells it, begins or goes on in another script."""
    return letter not in {_spelled(chr(n)) for n in range(128)}


def _spelled(character: str) -> str:
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled: str = byte_level.pre_tokenize_str(character)[0][0]
    return spelled


def _model_config(ids: dict[str, int]) -> dict[str, Any]:
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
        "text_config": {
            "vocab_size": 256,  # bytes and special tokens, up to a multiple of 64
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": MAX_LENGTH,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "bos_token_id": pad,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        "vision_config": {
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
        },
    }


def _write_weights(folder: Path, config: dict[str, Any], foreign: list[int]) -> None:
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    shape = Qwen2VLConfig(**config, dtype="float32")
    model = Qwen2VLForConditionalGeneration(shape)  # type: ignore[no-untyped-call]  # as above
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:  # norms stay at one and biases at zero
                weight.normal_(0, 2 / weight[0].numel() ** 0.5, generator=generator)
        # Bytes of other letters than ASCII's never win: put together at random they are mostly
        # characters that nobody assigned, which no sound caption holds.
        model.lm_head.weight[foreign] = 0.0
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def _processor_config(kind: str) -> dict[str, Any]:
    return {
        f"{kind.lower()}_processor_type": f"Qwen2VL{kind}Processor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 56 * 56,
        "max_pixels": 28 * 28 * 64,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
