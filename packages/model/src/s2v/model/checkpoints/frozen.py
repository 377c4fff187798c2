"""Wan's frozen parts from its own files or from a diffusers folder.

umT5 and CLIP become the modules of ``transformers``, the VAE that of ``diffusers``; their sizes
are read off the tensors, so no ``config.json`` is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s2v.model.checkpoints import identify as ident
from s2v.model.checkpoints.keymaps import UMT5_HF, Piece
from s2v.model.checkpoints.keymaps_vision import clip_pieces, vae_name
from s2v.model.checkpoints.loading import assign, find, without_memory
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import Weights
from s2v.model.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def load_umt5(path: str | Path, *, dtype: torch.dtype | None = None) -> nn.Module:
    """``transformers.UMT5EncoderModel`` from ``models_t5_umt5-xxl-enc-bf16.pth`` or a folder.

    Args:
        path: the file, or a folder that holds one.
        dtype: of the parameters; as stored without it.

    Raises:
        ModelError: not an umT5 encoder, or it does not fit.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    weights, identity = find(Path(path), ident.UMT5)
    sizes = identity.sizes
    if identity.layout == "original":
        names = _bare(weights, identity.prefix)
        pieces = {UMT5_HF.there(n) or n: Piece(source) for n, source in names.items()}
        attention, gate = "blocks.0.attn.q.weight", "blocks.0.ffn.gate.0.weight"
        buckets = "blocks.0.pos_embedding.embedding.weight"
    else:
        pieces = {n: Piece(n) for n in weights.entries}
        block = "encoder.block.0.layer"
        attention, gate = (
            f"{block}.0.SelfAttention.q.weight",
            f"{block}.1.DenseReluDense.wi_0.weight",
        )
        buckets = f"{block}.0.SelfAttention.relative_attention_bias.weight"
    tables = ("shared.weight", "encoder.embed_tokens.weight")
    source = next((pieces[t].source for t in tables if t in pieces), None)
    if source is not None:
        pieces |= {t: Piece(source) for t in tables}  # one table under two names
    shape = {k: v.shape for k, v in weights.entries.items()}
    heads = sizes["heads"]
    if sizes["layers"] < 1 or not heads or len(shape.get(attention, ())) != 2 or gate not in shape:
        raise ModelError(f"{weights.path}: an umT5 encoder with parts missing; download it again")
    config = UMT5Config(
        vocab_size=sizes["vocabulary"],
        d_model=sizes["width"],
        d_kv=shape[attention][0] // heads,
        d_ff=shape[gate][0],
        num_layers=sizes["layers"],
        num_heads=heads,
        relative_attention_num_buckets=shape[buckets][0],
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    with without_memory():
        model = UMT5EncoderModel(config)  # type: ignore[no-untyped-call]  # transformers is not typed
    # The whole encoder-decoder is published in one file; only its encoder is wanted.
    assign(model, weights, pieces, dtype=dtype, unexpected=("decoder.*", "lm_head.*"))
    return model.eval()  # type: ignore[no-any-return,no-untyped-call]  # transformers is not typed


def load_clip(
    path: str | Path, *, dtype: torch.dtype | None = None, heads: int | None = None
) -> nn.Module:
    """``transformers.CLIPVisionModelWithProjection`` from Wan's CLIP file or a folder.

    Args:
        path: ``models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth``, or a folder.
        dtype: of the parameters; as stored (float16 in Wan's file) without it.
        heads: number of heads; 16 (heads of 80) for ViT-H. Shapes do not tell.

    Raises:
        ModelError: not a CLIP vision tower, heads unknown, or it does not fit.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    weights, identity = find(Path(path), ident.CLIP)
    pieces: dict[str, Piece] = {}
    if identity.layout == "original":
        names = _bare(weights, identity.prefix)
        tower = "visual." if any(n.startswith("visual.") for n in names) else ""
        for name in names:
            if name.startswith(("textual.", "log_scale")):
                continue  # the text tower, which Wan does not use
            found = clip_pieces(name)
            pieces |= {k: Piece(name, p.take) for k, p in found.items()} or {name: Piece(name)}
        table, first = f"{tower}pos_embedding", f"{tower}transformer.0.mlp.0.weight"
        positions = weights.entries[table].shape[1] if table in weights.entries else 0
    else:
        pieces = {_hf_clip(n): Piece(n) for n in weights.entries if "position_ids" not in n}
        table = "vision_model.embeddings.position_embedding.weight"
        first = pieces["vision_model.encoder.layers.0.mlp.fc1.weight"].source
        positions = weights.entries[pieces[table].source].shape[0]
    if first not in weights.entries or positions < 2:
        raise ModelError(f"{weights.path}: a CLIP tower with parts missing; download it again")
    width, patch = identity.sizes["width"], identity.sizes["patch"]
    heads = heads or {1280: 16, 1024: 16, 768: 12}.get(width)
    if heads is None:
        raise ModelError(f"{weights.path}: CLIP of width {width}: say its number of heads")
    projection = pieces.get("visual_projection.weight")
    out = weights.entries[projection.source].shape if projection else (width, width)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=weights.entries[first].shape[0],
        num_hidden_layers=identity.sizes["layers"],
        num_attention_heads=heads,
        image_size=round((positions - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        projection_dim=out[1] if identity.layout == "original" else out[0],
    )
    with without_memory():
        model = CLIPVisionModelWithProjection(config)
    missing = () if projection else ("visual_projection.weight",)
    if assign(model, weights, pieces, dtype=dtype, missing=missing):
        eye = torch.eye(width, dtype=next(model.vision_model.parameters()).dtype)
        model.visual_projection.weight = torch.nn.Parameter(eye)
    return model.eval()  # type: ignore[no-any-return,no-untyped-call]  # transformers is not typed


def _hf_clip(name: str) -> str:
    """Towers saved alone have no ``vision_model.`` before their names in newer versions."""
    if name.startswith(("vision_model.", "visual_projection.")):
        return name
    return f"vision_model.{name}"


def load_vae(path: str | Path, *, dtype: torch.dtype | None = None) -> nn.Module:
    """``diffusers.AutoencoderKLWan`` from ``Wan2.1_VAE.pth`` or a folder.

    The mean and scale of its latents are Wan2.1's, which stand in no file; they are
    ``config.latents_mean`` and ``latents_std``.

    Raises:
        ModelError: not Wan2.1's VAE, or it does not fit.
    """
    from diffusers import AutoencoderKLWan

    weights, identity = find(Path(path), ident.VAE)
    names = _bare(weights, identity.prefix)
    if identity.layout == "original":
        resnets = _decoder_resnets(names)
        pieces = {vae_name(n, resnets) or n: Piece(s) for n, s in names.items()}
    else:
        pieces = {n: Piece(s) for n, s in names.items()}
        numbers = re.compile(r"^decoder\.up_blocks\.0\.resnets\.(\d+)\.")
        resnets = 1 + max((int(m[1]) for n in names if (m := numbers.match(n))), default=-1)
    entries = {n: weights.entries[p.source] for n, p in pieces.items()}
    with without_memory():
        model = AutoencoderKLWan(**_vae_config(entries, resnets, weights))
    assign(model, weights, pieces, dtype=dtype)
    return model.eval()  # type: ignore[no-any-return]  # diffusers is not typed here


def _decoder_resnets(names: Mapping[str, str]) -> int:
    """Residual blocks per level of the decoder: the first upsampler's number."""
    found = [int(m[1]) for n in names if (m := re.match(r"decoder\.upsamples\.(\d+)\.resample", n))]
    return min(found, default=3)


def _vae_config(entries: Mapping[str, Entry], resnets: int, weights: Weights) -> dict[str, Any]:
    try:
        base = entries["encoder.conv_in.weight"].shape[0]
        z = entries["post_quant_conv.weight"].shape[0]
        # The flat list of the encoder: per level its residual blocks, then a downsampler.
        blocks = resnets - 1
        multiples, in_time = [], []
        for level in range(8):
            start = level * (blocks + 1)
            first = entries.get(f"encoder.down_blocks.{start}.conv1.weight")
            if first is None:
                break
            multiples.append(first.shape[0] // base)
            if f"encoder.down_blocks.{start + blocks}.resample.1.weight" in entries:
                in_time.append(f"encoder.down_blocks.{start + blocks}.time_conv.weight" in entries)
        if z != 16 or not multiples or blocks < 1:
            raise KeyError("post_quant_conv.weight")
    except (KeyError, IndexError):
        raise ModelError(
            f"{weights.path}: a VAE, but not Wan2.1's (16 channels); its latents would not fit"
        ) from None
    return {
        "base_dim": base, "z_dim": z, "dim_mult": multiples, "num_res_blocks": blocks,
        "temperal_downsample": in_time,
    }  # fmt: skip


def _bare(weights: Weights, prefix: str) -> dict[str, str]:
    """Name without the prefix -> name in the file."""
    return {n.removeprefix(prefix): n for n in weights.entries}
