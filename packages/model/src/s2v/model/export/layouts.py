"""The folders that other programs read: original, ComfyUI, diffusers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.atomic import write_json
from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.checkpoints.writing import SHARD_BYTES, write_file, write_shards
from s2v.model.errors import ModelError
from s2v.model.export.source import Source, metadata
from s2v.model.wan_config import WanConfig

BASE: Final = "diffusion_pytorch_model"
COMFY_PREFIX: Final = "model.diffusion_model."
COMFY_FILE: Final = "phantom_wan.safetensors"
FLOW_SHIFT: Final = 5.0  # the release
_FILES: Final = Path(__file__).parent / "diffusers_files"


def write_original(source: Source, out: Path, dtype: str | None, limit: int) -> None:
    """The names of the release, sharded, beside the ``config.json`` of the original class."""
    write_shards(
        out, BASE, source.tensors(dtype), metadata(source.config, "original"), limit or SHARD_BYTES
    )
    write_json(out / "config.json", original_config(source.config))


def write_comfyui(source: Source, out: Path, dtype: str | None) -> None:
    """One file, which is what ComfyUI reads, under its prefix."""
    tensors = {COMFY_PREFIX + name: t for name, t in source.tensors(dtype).items()}
    write_file(out / COMFY_FILE, tensors, metadata(source.config, "comfyui"))


def write_diffusers(source: Source, out: Path, dtype: str | None, limit: int) -> None:
    """``transformer/``, and around it a pipeline that diffusers does not have."""
    write_transformer(source, out / "transformer", dtype, limit)
    if source.config.image_width is None:
        write_json(out / "scheduler" / "scheduler_config.json", scheduler_config())
        write_json(out / "model_index.json", model_index())
        shutil.copyfile(_FILES / "pipeline.py", out / "pipeline.py")


def write_transformer(source: Source, folder: Path, dtype: str | None, limit: int) -> None:
    """The folder that ``WanTransformer3DModel.from_pretrained`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in source.tensors(dtype).items():
        renamed = WAN_DIFFUSERS.there(name)
        if renamed is None:
            raise ModelError(f"{source.weights.path}: {name} has no name in diffusers")
        tensors[renamed] = tensor
    write_shards(folder, BASE, tensors, metadata(source.config, "diffusers"), limit or SHARD_BYTES)
    write_json(folder / "config.json", diffusers_config(source.config))


def diffusers_config(config: WanConfig) -> dict[str, Any]:
    """``config.json`` of diffusers' class."""
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": None if config.image_width is None else config.width,
        "attention_head_dim": config.head,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn,
        "freq_dim": config.frequencies,
        "image_dim": config.image_width,
        "in_channels": config.in_channels,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
        "out_channels": config.out_channels,
        "patch_size": list(config.patch),
        "pos_embed_seq_len": config.image_positions,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_width,
    }


def original_config(config: WanConfig) -> dict[str, Any]:
    """``config.json`` of the original class."""
    kind = "t2v" if config.image_width is None else "flf2v" if config.image_positions else "i2v"
    return {
        "_class_name": "WanModel",
        "dim": config.width,
        "eps": config.eps,
        "ffn_dim": config.ffn,
        "freq_dim": config.frequencies,
        "in_dim": config.in_channels,
        "model_type": kind,
        "num_heads": config.heads,
        "num_layers": config.layers,
        "out_dim": config.out_channels,
        "text_len": config.text_tokens,
    }


def scheduler_config() -> dict[str, Any]:
    """UniPC along the flow with the release's shift."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "flow_shift": FLOW_SHIFT,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "solver_type": "bh2",
        "use_flow_sigmas": True,
    }


def model_index() -> dict[str, Any]:
    """Components of the pipeline; text encoder, tokenizer and VAE come from Wan2.1's folder."""
    return {
        "_class_name": ["pipeline", "PhantomPipeline"],
        "boundary_ratio": None,
        "expand_timesteps": False,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
