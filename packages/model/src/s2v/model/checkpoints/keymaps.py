"""Names of the same tensors in different programs.

Each table lists a module in the original release against its name elsewhere; weights and biases
follow their module. The network's own names are the original ones (:mod:`s2v.model.wan`). The
image tower and the VAE, which are more than renamed, are in :mod:`keymaps_vision`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

#: Prefixes that programs put before the original names. ComfyUI: ``model.diffusion_model.``;
#: ``module.``: a wrapper for parallel training.
PREFIXES: Final = ("model.diffusion_model.", "diffusion_model.", "module.")

_ATTENTION: Final = {
    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
}  # fmt: skip
_WAN: Final = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
# norm3 is the affine norm before cross-attention; diffusers numbers the norms in running order.
_WAN_BLOCK: Final = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION.items()},
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
_UMT5: Final = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
_UMT5_BLOCK: Final = {
    "norm1": "layer.0.layer_norm",
    **{f"attn.{n}": f"layer.0.SelfAttention.{n}" for n in "qkvo"},
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
#: Names that are tensors themselves, with no ``weight`` or ``bias`` below them, in either program.
_PARAMETERS: Final = frozenset(
    {
        *("head.modulation", "modulation", "scale_shift_table", "img_emb.emb_pos"),
        "condition_embedder.image_embedder.pos_embed",
    }
)
_BLOCK: Final = re.compile(r"^(?P<stack>[a-z_.]+?)\.(?P<i>\d+)\.(?P<rest>.+)$")


@dataclass(frozen=True)
class KeyMap:
    """Names in two programs, both ways.

    Attributes:
        modules: outside the blocks, original to other.
        block: inside one block, original to other.
        stack: the name before a block's number, in both.
    """

    modules: dict[str, str]
    block: dict[str, str]
    stack: tuple[str, str] = ("blocks", "blocks")

    def there(self, name: str) -> str | None:
        """The other program's name of an original one; None where it has none."""
        return _renamed(name, self.modules, self.block, self.stack)

    def back(self, name: str) -> str | None:
        """The original name of the other program's."""
        modules = {v: k for k, v in self.modules.items()}
        block = {v: k for k, v in self.block.items()}
        return _renamed(name, modules, block, (self.stack[1], self.stack[0]))


WAN_DIFFUSERS: Final = KeyMap(_WAN, _WAN_BLOCK)
UMT5_HF: Final = KeyMap(_UMT5, _UMT5_BLOCK, ("blocks", "encoder.block"))


def _renamed(
    name: str, modules: dict[str, str], block: dict[str, str], stack: tuple[str, str]
) -> str | None:
    match = _BLOCK.match(name)
    if match and match["stack"] == stack[0]:
        inner = _module_renamed(match["rest"], block)
        return None if inner is None else f"{stack[1]}.{match['i']}.{inner}"
    return _module_renamed(name, modules)


def _module_renamed(name: str, table: Mapping[str, str]) -> str | None:
    if name in _PARAMETERS:
        return table.get(name)
    module, _, leaf = name.rpartition(".")
    known = module in table and module not in _PARAMETERS and leaf in {"weight", "bias"}
    return f"{table[module]}.{leaf}" if known else None


@dataclass(frozen=True)
class Piece:
    """Where a tensor of the target comes from.

    Attributes:
        source: name in the file.
        take: what is done to it; works on ``meta`` tensors too, so that shapes are known unread.
    """

    source: str
    take: Callable[[Tensor], Tensor] = lambda tensor: tensor


def rows(part: int, parts: int) -> Callable[[Tensor], Tensor]:
    """The ``part``-th of so many equal groups of rows."""
    return lambda tensor: tensor.chunk(parts, dim=0)[part]
