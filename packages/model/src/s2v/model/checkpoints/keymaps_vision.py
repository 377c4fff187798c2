"""Wan's CLIP tower and VAE under the names of ``transformers`` and ``diffusers``."""

from __future__ import annotations

import re
from typing import Final

from s2v.model.checkpoints.keymaps import Piece, rows

_VISION: Final = "vision_model"
_CLIP_MODULES: Final = {
    "patch_embedding": f"{_VISION}.embeddings.patch_embedding",
    "pre_norm": f"{_VISION}.pre_layrnorm",  # their spelling
    "post_norm": f"{_VISION}.post_layernorm",
}
_CLIP_LAYER: Final = {
    "attn.proj": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2",
}  # fmt: skip
# Wan keeps the projection as [width, out], and the two tables with a batch axis.
_CLIP_TENSORS: Final = {
    "head": ("visual_projection.weight", lambda t: t.T),
    "cls_embedding": (f"{_VISION}.embeddings.class_embedding", lambda t: t.flatten()),
    "pos_embedding": (f"{_VISION}.embeddings.position_embedding.weight", lambda t: t.squeeze(0)),
}
_CLIP_BLOCK: Final = re.compile(r"^transformer\.(\d+)\.(.+)\.(weight|bias)$")


def clip_pieces(name: str) -> dict[str, Piece]:
    """Tensors of ``CLIPVisionModelWithProjection`` that come from one of Wan's CLIP file.

    Queries, keys and values lie in one matrix there. The text tower (``textual.``) gives nothing.
    """
    name = name.removeprefix("visual.")
    if name in _CLIP_TENSORS:
        target, take = _CLIP_TENSORS[name]
        return {target: Piece(name, take)}
    module, _, leaf = name.rpartition(".")
    if module in _CLIP_MODULES:
        return {f"{_CLIP_MODULES[module]}.{leaf}": Piece(name)}
    match = _CLIP_BLOCK.match(name)
    layer = f"{_VISION}.encoder.layers.{match[1]}" if match else ""
    if match and match[2] == "attn.to_qkv":
        return {
            f"{layer}.self_attn.{n}_proj.{match[3]}": Piece(name, rows(i, 3))
            for i, n in enumerate("qkv")
        }
    if match and match[2] in _CLIP_LAYER:
        return {f"{layer}.{_CLIP_LAYER[match[2]]}.{match[3]}": Piece(name)}
    return {}


_RESIDUAL: Final = {
    "residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}  # fmt: skip
_MIDDLE: Final = {
    "0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1",
}  # fmt: skip
_VAE_MODULES: Final = {
    "conv1": "quant_conv", "conv2": "post_quant_conv",
    **{f"{tower}.conv1": f"{tower}.conv_in" for tower in ("encoder", "decoder")},
    **{f"{tower}.head.0": f"{tower}.norm_out" for tower in ("encoder", "decoder")},
    **{f"{tower}.head.2": f"{tower}.conv_out" for tower in ("encoder", "decoder")},
}  # fmt: skip
_VAE_BLOCK: Final = re.compile(r"^(encoder|decoder)\.(middle|downsamples|upsamples)\.(\d+)\.(.+)$")


def vae_name(name: str, resnets: int) -> str | None:
    """diffusers' name of a tensor of Wan's VAE file; None where it has none.

    Args:
        name: as in ``Wan2.1_VAE.pth``.
        resnets: residual blocks per level of the decoder (``num_res_blocks + 1``; Wan: 3).
    """
    module, _, leaf = name.rpartition(".")
    if module in _VAE_MODULES:
        return f"{_VAE_MODULES[module]}.{leaf}"
    match = _VAE_BLOCK.match(name)
    if match is None:
        return None
    tower, part, number, inner = match.groups()
    if part == "middle":
        place = _MIDDLE.get(number, f"mid_block.unknown.{number}")
    elif part == "downsamples":
        place = f"down_blocks.{number}"
    else:  # a level is its resnets and then, but for the last level, an upsampler
        level, within = divmod(int(number), resnets + 1)
        sub = f"resnets.{within}" if within < resnets else "upsamplers.0"
        place = f"up_blocks.{level}.{sub}"
    return f"{tower}.{place}.{_residual(inner)}"


def _residual(inner: str) -> str:
    for ours, theirs in _RESIDUAL.items():
        if inner.startswith(ours + "."):
            return theirs + inner.removeprefix(ours)
    return inner
