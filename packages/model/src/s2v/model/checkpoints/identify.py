"""Which model a file holds, read off the names and shapes of its tensors.

Nothing is believed that can be seen: sizes come from shapes. What shapes cannot say (how many
heads; which of two models with equal tensors) is taken from the file's metadata or its folder's
``config.json`` where it stands there, and otherwise follows the released models.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from s2v.model.checkpoints.keymaps import PREFIXES, WAN_DIFFUSERS
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import Weights, read_json
from s2v.model.errors import ModelError
from s2v.model.wan_config import WanConfig

HEAD: Final = 128  # width of a head in every released Wan
WAN, UMT5, VAE, CLIP, MMDIT, LORA = "wan", "umt5", "wan-vae", "clip-vision", "mmdit", "lora"

#: Models that are often mistaken for Wan's, each by a name that only it has.
_FOREIGN: Final = (
    ("Wan2.1 VACE", r"^vace_(blocks|patch_embedding)\."),
    ("Wan2.2 Animate", r"^(motion_encoder|face_adapter)\."),
    ("Wan2.2 S2V (speech)", r"^(casual_audio_encoder|audio_injector|trainable_cond_mask)"),
    ("Wan Fun with camera control", r"^control_adapter\."),
    ("HunyuanVideo", r"^(txt_in\.individual_token_refiner|context_embedder\.token_refiner)\."),
    ("Stable Diffusion 3", r"^(joint_blocks\.|transformer_blocks\.0\.norm1_context\.)"),
    ("FLUX", r"^(double_blocks\.0\.img_attn\.|single_transformer_blocks\.)"),
    ("Stable Diffusion 1, 2 or XL", r"^(input_blocks|down_blocks\.\d+\.resnets)\."),
    ("LTX-Video", r"^(caption_projection|adaln_single)\."),
    ("CogVideoX", r"^transformer_blocks\.0\.norm1\.linear\."),
    ("T5, the encoder of another model", r"^encoder\.block\.\d+\.layer\.0\.SelfAttention\."),
    ("CLIP of another program", r"^(text_model|vision_model)\."),
)
_LORA: Final = re.compile(
    r"\.(lora_[AB]|lora_down|lora_up|hada_w1_a|lokr_w1)\b|\.alpha$|\.diff(_b)?$"
)
_SIZES: Final = {(1536, 30): "1.3B", (5120, 40): "14B"}


@dataclass(frozen=True)
class Identity:
    """What a set of tensors is.

    Attributes:
        kind: ``wan``, ``umt5``, ``wan-vae``, ``clip-vision``, ``mmdit``, ``lora`` or ``unknown``.
        model: its name for people.
        layout: ``original``, ``diffusers``, ``comfyui``, ``transformers``, ``s2v``, ``peft``, ...
        prefix: what stands before every name.
        sizes: layers, width and so on, as far as shapes tell.
    """

    kind: str
    model: str
    layout: str
    prefix: str
    sizes: Mapping[str, Any]


def identify(weights: Weights) -> Identity:
    """Say what ``weights`` are; never raises for a model it does not know."""
    names = weights.entries.keys()
    if any(_LORA.search(name) for name in names):
        return _lora(weights)
    prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names)), "")
    bare = {name.removeprefix(prefix): entry for name, entry in weights.entries.items()}
    offspring = _foreign(bare, prefix, _FOREIGN[:4])  # these hold all of Wan's tensors and more
    for found in (offspring, _wan(bare, prefix), _encoder(bare, prefix), _own(weights)):
        if found is not None:
            return found
    unknown = Identity("unknown", "a model that is not known here", "unknown", prefix, {})
    return _foreign(bare, prefix, _FOREIGN) or unknown


def _foreign(
    entries: Mapping[str, Entry], prefix: str, known: Iterable[tuple[str, str]]
) -> Identity | None:
    for name, pattern in known:
        if any(re.match(pattern, n) for n in entries):
            return Identity("unknown", name, "original", prefix, {})
    return None


def wan_config(weights: Weights, identity: Identity, heads: int | None = None) -> WanConfig:
    """The network's configuration for a Wan checkpoint.

    Args:
        weights: the file.
        identity: of it.
        heads: number of heads, where neither the file nor its folder tells.

    Raises:
        ModelError: not a Wan network, sizes that contradict one another, or heads unknown.
    """
    if identity.kind != WAN:
        raise ModelError(
            f"{weights.path}: {identity.model}; a Wan2.1 or Phantom-Wan network is needed"
        )
    sizes = dict(identity.sizes)
    told = _told(weights)
    width = sizes["width"]
    heads = heads or told.pop("heads", None) or (width // HEAD if width % HEAD == 0 else None)
    if heads is None:
        raise ModelError(
            f"{weights.path}: width {width} is no multiple of {HEAD}, so the number of heads is "
            "not known; say it"
        )
    keys = ("width", "ffn", "layers", "in_channels", "out_channels", "patch", "text_width",
            "image_width", "image_positions", "frequencies")  # fmt: skip
    try:
        return WanConfig(**{**told, **{k: sizes[k] for k in keys}, "heads": heads})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelError(f"{weights.path}: {place} {first['msg']}; not a network of Wan") from None


def states_options(weights: Weights) -> bool:
    """Whether the file is one of ours, which say how references are placed and timed."""
    return "reference_position" in _told(weights)


def _told(weights: Weights) -> dict[str, Any]:
    """What our own metadata, or a diffusers ``config.json`` beside the file, adds to shapes."""
    try:
        ours = json.loads(weights.metadata.get("s2v", "{}"))
    except ValueError:
        ours = {}
    for key in ("wan", "network"):  # an export's, a training checkpoint's
        told = ours.get(key) if isinstance(ours, dict) else None
        sizes = {k: v for k, v in told.items() if k != "kind"} if isinstance(told, dict) else {}
        if sizes and sizes.keys() <= WanConfig.model_fields.keys():
            return sizes
    beside = weights.path.parent / "config.json"
    if beside.is_file():
        said = read_json(beside)
        heads = said.get("num_attention_heads", said.get("num_heads"))
        if said.get("_class_name") in {"WanTransformer3DModel", "WanModel"} and type(heads) is int:
            return {"heads": heads}
    return {}


def layers(names: Iterable[str], stack: str) -> int:
    """Number of blocks named ``<stack>.<i>.``; -1 where the numbers have gaps."""
    start = stack + "."
    found = {n[len(start) :].partition(".")[0] for n in names if n.startswith(start)}
    numbers = {int(n) for n in found if n.isdecimal() and len(n) < 6}
    return len(numbers) if numbers == set(range(len(numbers))) else -1


def _shape(entries: Mapping[str, Entry], name: str, rank: int) -> tuple[int, ...]:
    entry = entries.get(name)
    return entry.shape if entry is not None and len(entry.shape) == rank else (0,) * rank


def _wan(entries: Mapping[str, Entry], prefix: str) -> Identity | None:
    layout = "comfyui" if "diffusion_model" in prefix else "original"
    if "condition_embedder.time_proj.weight" in entries:
        entries = {WAN_DIFFUSERS.back(n) or n: e for n, e in entries.items()}
        layout = "diffusers"
    if not {"head.modulation", "patch_embedding.weight"} <= entries.keys():
        return None
    width, channels, *patch = _shape(entries, "patch_embedding.weight", 5)
    image = "img_emb.proj.0.weight" in entries
    sizes = {
        "layers": layers(entries, "blocks"),
        "width": width,
        "ffn": _shape(entries, "blocks.0.ffn.0.weight", 2)[0],
        "in_channels": channels,
        "out_channels": _shape(entries, "head.head.weight", 2)[0] // max(math.prod(patch), 1),
        "patch": tuple(patch),
        "text_width": _shape(entries, "text_embedding.0.weight", 2)[1],
        "image_width": _shape(entries, "img_emb.proj.0.weight", 1)[0] if image else None,
        "image_positions": _shape(entries, "img_emb.emb_pos", 3)[1] or None,
        "frequencies": _shape(entries, "time_embedding.0.weight", 2)[1],
    }
    return Identity(WAN, _wan_name(sizes), layout, prefix, sizes)


def _wan_name(sizes: Mapping[str, Any]) -> str:
    size = _SIZES.get((sizes["width"], sizes["layers"]), "of another size")
    image, channels = sizes["image_width"] is not None, sizes["in_channels"]
    if channels == 16:
        if image:
            return f"Wan2.1 T2V {size} with image tokens"
        # Equal names and equal shapes: nothing in such a file tells one from the other.
        return f"Wan2.1 T2V or Phantom-Wan {size}"
    if channels == 36 and image:
        kind = "first and last frame" if sizes["image_positions"] else "I2V"
        return f"Wan2.1 {kind} {size}"
    if channels == 36:
        return f"Wan2.2 I2V {size}"
    return f"Wan2.2 TI2V {size}" if channels == 48 else f"Wan with {channels} channels"


def _encoder(entries: Mapping[str, Entry], prefix: str) -> Identity | None:
    if {"token_embedding.weight", "blocks.0.attn.q.weight"} <= entries.keys():
        return _umt5(entries, prefix, "original", "blocks", "blocks.{}.attn", "token_embedding")
    if "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in entries:
        # Every layer has its own: umT5, not T5.
        inner = "encoder.block.{}.layer.0.SelfAttention"
        return _umt5(entries, prefix, "transformers", "encoder.block", inner, "shared")
    return _vae(entries, prefix) or _clip(entries, prefix)


def _vae(entries: Mapping[str, Entry], prefix: str) -> Identity | None:
    for layout, probe, latent, first in (
        ("original", "decoder.middle.0.residual.0.gamma", "conv2", "encoder.conv1"),
        ("diffusers", "decoder.mid_block.resnets.0.norm1.gamma", "post_quant_conv",
         "encoder.conv_in"),
    ):  # fmt: skip
        if probe in entries:
            channels = _shape(entries, f"{latent}.weight", 5)[0]
            width = _shape(entries, f"{first}.weight", 5)[0]
            name = "Wan2.1 VAE" if channels == 16 else f"a VAE of {channels} channels"
            return Identity(VAE, name, layout, prefix, {"channels": channels, "width": width})
    return None


def _clip(entries: Mapping[str, Entry], prefix: str) -> Identity | None:
    for layout, stem, stack, probe, patches in (
        ("original", "visual.", "transformer", "attn.to_qkv", "patch_embedding"),
        ("original", "", "transformer", "attn.to_qkv", "patch_embedding"),
        ("transformers", "vision_model.", "encoder.layers", "self_attn.q_proj",
         "embeddings.patch_embedding"),
        ("transformers", "", "encoder.layers", "self_attn.q_proj", "embeddings.patch_embedding"),
    ):  # fmt: skip
        if f"{stem}{stack}.0.{probe}.weight" in entries:
            width, _, patch, _ = _shape(entries, f"{stem}{patches}.weight", 4)
            depth = layers(entries, f"{stem}{stack}")
            name = "CLIP ViT-H/14 vision tower" if (width, depth) == (1280, 32) else "CLIP vision"
            sizes = {"layers": depth, "width": width, "patch": patch}
            return Identity(CLIP, name, layout, prefix, sizes)
    return None


def _umt5(
    entries: Mapping[str, Entry], prefix: str, layout: str, stack: str, attn: str, table: str
) -> Identity:
    tables = (f"{table}.weight", "encoder.embed_tokens.weight")
    vocabulary, width = next((s for t in tables if (s := _shape(entries, t, 2)) != (0, 0)), (0, 0))
    first = attn.format(0)
    heads = max(
        _shape(entries, f"{first}.relative_attention_bias.weight", 2)[1],
        _shape(entries, "blocks.0.pos_embedding.embedding.weight", 2)[1],
    )
    sizes = {
        "layers": layers(entries, stack), "width": width, "vocabulary": vocabulary, "heads": heads,
    }  # fmt: skip
    name = "umT5-XXL encoder" if (width, sizes["layers"]) == (4096, 24) else "umT5 encoder"
    return Identity(UMT5, name, layout, prefix, sizes)


def _lora(weights: Weights) -> Identity:
    names = list(weights.entries)
    if all(n.startswith("lora_unet_") for n in names):
        layout = "kohya"
    elif all(n.startswith("diffusion_model.") for n in names):
        layout = "comfyui"
    else:
        layout = "peft"
    ranks = {
        e.shape[0]
        for n, e in weights.entries.items()
        if re.search(r"\.(lora_A|lora_down)\.", n) and e.shape
    }
    sizes = {"ranks": sorted(ranks)[:8]}
    return Identity(LORA, "a LoRA: additions to a network, not a network", layout, "", sizes)


def _own(weights: Weights) -> Identity | None:
    try:
        said = json.loads(weights.metadata.get("s2v", "{}"))
    except ValueError:
        return None
    kind = str(said.get("format", "")) if isinstance(said, dict) else ""
    if kind.startswith("s2v-mmdit"):
        network = said.get("network", {})
        return Identity(MMDIT, "MMDiT of this trainer", "s2v", "", dict(network))
    return None
