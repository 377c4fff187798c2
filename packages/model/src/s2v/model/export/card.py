"""The model card: licence, where the weights come from, how to load them, what was checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_USE: Final = {
    "original": (
        "The folder has the names, shapes and `config.json` of the original release: its own "
        "`WanModel.from_pretrained(folder)` and tools that take Wan2.1 checkpoints read it."
    ),
    "comfyui": (
        "Put `phantom_wan.safetensors` into `models/diffusion_models/` and load it with *Load "
        "Diffusion Model*; `WanPhantomSubjectToVideo` adds the references."
    ),
    "diffusers": (
        "```python\n"
        "from diffusers import AutoencoderKLWan, DiffusionPipeline\n"
        "from transformers import AutoTokenizer, UMT5EncoderModel\n\n"
        'wan = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"  # VAE and text encoder are Wan2.1\'s\n'
        "pipe = DiffusionPipeline.from_pretrained(\n"
        '    "this/folder", trust_remote_code=True,\n'
        '    vae=AutoencoderKLWan.from_pretrained(wan, subfolder="vae"),\n'
        '    text_encoder=UMT5EncoderModel.from_pretrained(wan, subfolder="text_encoder"),\n'
        '    tokenizer=AutoTokenizer.from_pretrained(wan, subfolder="tokenizer"),\n'
        ")\n"
        'frames = pipe("a rabbit runs", references=[image]).frames[0]\n'
        "```\n\n"
        "`transformer/` alone loads with `WanTransformer3DModel.from_pretrained`. `pipeline.py` is "
        "code: read it before you pass `trust_remote_code=True`."
    ),
    "lora": (
        "`pytorch_lora_weights.safetensors` loads with `pipe.load_lora_weights(folder)`; "
        "`phantom_wan_lora_comfyui.safetensors` goes into ComfyUI's `models/loras/`. Both are the "
        "same matrices, with a scale of one."
    ),
}


def card(to: str, facts: Mapping[str, Any], parity: Mapping[str, Any], licence: str) -> str:
    """``README.md`` of an export.

    Args:
        to: layout.
        facts: provenance of the source; ``base`` for a LoRA.
        parity: result of the check.
        licence: SPDX name of the weights' licence.
    """
    header = (
        f"---\nlicense: {licence.lower()}\npipeline_tag: text-to-video\n"
        "tags:\n- subject-to-video\n- phantom\n- wan\n---\n"
    )
    told = json.dumps(dict(facts), indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f"{header}\n# Phantom-Wan, {to} layout\n\n"
        "Weights of a subject-to-video network of the Wan2.1 kind (Phantom, arXiv 2502.11079): "
        "reference latents stand behind the video's in time.\n\n"
        f"## Licence\n\n{licence}. Wan2.1 and Phantom-Wan were released under Apache-2.0; weights "
        "made from them keep their notices. The data they were trained on may bind you further.\n\n"
        f"## Use\n\n{_USE[to]}\n\n"
        f"## Origin\n\n```json\n{told}\n```\n\n"
        f"## Checked when written\n\n{_checked(to, parity)}\n"
    )


def _checked(to: str, parity: Mapping[str, Any]) -> str:
    output = (
        f"On a random input the output of `{parity['against']}` is that of the source network to "
        f"a relative L2 of {parity['rel_l2']:.1e} (float32)."
    )
    if to != "lora":
        return f"All {parity['tensors']} tensors are the source's, bit for bit. {output}"
    return f"{parity['modules']} layers; they move the output by {parity['effect']:.1e}. {output}"
