"""Wan's text encoder, image tower and VAE give the same numbers after our renaming.

The original modules are restated here as far as they compute: the release's code is not a
dependency.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as fn

from s2v.model.checkpoints.frozen import load_clip, load_umt5, load_vae
from s2v.model.errors import ModelError
from s2v.model.inspection import describe

TOLERANCE = 1e-5


def rel(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def state(shapes: dict[str, tuple[int, ...]], scale: float = 0.3) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        k: torch.randn(s, generator=random) * scale + (1.0 if "norm" in k and len(s) == 1 else 0.0)
        for k, s in shapes.items()
    }


# umT5 as Wan writes it: RMS norms, no scaling of scores, a bias table in every block, gated GELU.


def umt5_state(
    vocabulary: int = 30, d: int = 16, heads: int = 2, ffn: int = 24
) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (vocabulary, d),
        "norm.weight": (d,),
    }
    for i in range(2):
        b = f"blocks.{i}"
        shapes |= {f"{b}.norm{n}.weight": (d,) for n in (1, 2)}
        shapes |= {f"{b}.attn.{n}.weight": (d, d) for n in "qkvo"}
        shapes[f"{b}.pos_embedding.embedding.weight"] = (32, heads)
        shapes |= {f"{b}.ffn.{n}.weight": (ffn, d) for n in ("gate.0", "fc1")}
        shapes[f"{b}.ffn.fc2.weight"] = (d, ffn)
    return state(shapes)


def umt5(w: dict[str, Tensor], ids: Tensor, mask: Tensor, heads: int = 2) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]

    steps = torch.arange(ids.shape[1])
    offset = steps[None] - steps[:, None]
    far = 8 + (torch.log(offset.abs().float() / 8) / math.log(128 / 8) * 8).long()
    bucket = (offset > 0).long() * 16 + torch.where(
        offset.abs() < 8, offset.abs(), far.clamp(max=15)
    )
    x = w["token_embedding.weight"][ids]
    for i in range(2):
        b = f"blocks.{i}"
        y = norm(x, f"{b}.norm1")
        q, k, v = ((y @ w[f"{b}.attn.{n}.weight"].T).unflatten(2, (heads, -1)) for n in "qkv")
        scores = torch.einsum("binc,bjnc->bnij", q, k)
        scores = scores + w[f"{b}.pos_embedding.embedding.weight"][bucket].permute(2, 0, 1)[None]
        scores = scores.masked_fill(mask[:, None, None] == 0, torch.finfo(x.dtype).min)
        y = torch.einsum("bnij,bjnc->binc", scores.softmax(-1), v).flatten(2)
        x = x + y @ w[f"{b}.attn.o.weight"].T
        y = norm(x, f"{b}.norm2")
        gate = fn.gelu(y @ w[f"{b}.ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ w[f"{b}.ffn.fc1.weight"].T)) @ w[f"{b}.ffn.fc2.weight"].T
    return norm(x, "norm")


def test_umt5_of_a_pth_gives_the_original_output(tmp_path: Path) -> None:
    w = umt5_state()
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(w, path)
    model = load_umt5(path)
    random = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 30, (2, 21), generator=random)
    mask = torch.ones(2, 21, dtype=torch.long)
    mask[1, 13:] = 0
    with torch.no_grad():
        got = model(ids, attention_mask=mask).last_hidden_state
    expected = umt5(w, ids, mask)
    assert rel(got[0], expected[0]) < TOLERANCE
    assert rel(got[1, :13], expected[1, :13]) < TOLERANCE
    facts = describe(path)
    assert (facts["kind"], facts["layers"], facts["heads"]) == ("umt5", 2, 2)


def test_umt5_of_a_transformers_folder_is_the_same_module(tmp_path: Path) -> None:
    torch.save(umt5_state(), tmp_path / "t5.pth")
    model = load_umt5(tmp_path / "t5.pth")
    model.save_pretrained(tmp_path / "text_encoder")
    again = load_umt5(tmp_path / "text_encoder")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).last_hidden_state, again(ids).last_hidden_state)
    assert again.shared.weight is again.encoder.embed_tokens.weight


def test_umt5_types_can_be_changed_and_other_t5_is_refused(tmp_path: Path) -> None:
    w = {k: v.bfloat16() for k, v in umt5_state().items()}
    torch.save(w, tmp_path / "t5.pth")
    assert {p.dtype for p in load_umt5(tmp_path / "t5.pth").parameters()} == {torch.bfloat16}
    wide = load_umt5(tmp_path / "t5.pth", dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    del w["blocks.1.norm2.weight"]
    torch.save(w, tmp_path / "less.pth")
    with pytest.raises(ModelError, match=r"1 missing: encoder\.block\.1\.layer\.1\.layer_norm"):
        load_umt5(tmp_path / "less.pth")
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)},
              tmp_path / "t5xxl.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match="T5, the encoder of another model"):
        load_umt5(tmp_path / "t5xxl.safetensors")


# CLIP as Wan writes it: one matrix for queries, keys and values; a projection [width, out].


def clip_state(
    d: int = 32, layers: int = 3, patch: int = 4, side: int = 3, out: int = 12
) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (d, 3, patch, patch), "cls_embedding": (1, 1, d),
        "pos_embedding": (1, side * side + 1, d), "head": (d, out),
    }  # fmt: skip
    for n in ("pre_norm", "post_norm"):
        shapes |= {f"{n}.weight": (d,), f"{n}.bias": (d,)}
    for i in range(layers):
        sizes: dict[str, tuple[int, ...]] = {
            "norm1": (d,), "norm2": (d,), "attn.to_qkv": (3 * d, d), "attn.proj": (d, d),
            "mlp.0": (4 * d, d), "mlp.2": (d, 4 * d),
        }  # fmt: skip
        for module, size in sizes.items():
            shapes |= {
                f"transformer.{i}.{module}.weight": size,
                f"transformer.{i}.{module}.bias": size[:1],
            }
    return {f"visual.{k}": v for k, v in state(shapes, 0.15).items()}


def clip(w: dict[str, Tensor], pixels: Tensor, layers: int, heads: int) -> Tensor:
    w = {k.removeprefix("visual."): v for k, v in w.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return fn.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return fn.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = fn.conv2d(pixels, w["patch_embedding.weight"], stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_embedding"].expand(len(x), -1, -1), x], dim=1) + w["pos_embedding"]
    x = norm(x, "pre_norm")
    for i in range(layers):
        b = f"transformer.{i}"
        q, k, v = (
            linear(norm(x, f"{b}.norm1"), f"{b}.attn.to_qkv").unflatten(2, (3, heads, -1)).unbind(2)
        )
        y = fn.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + linear(y.transpose(1, 2).flatten(2), f"{b}.attn.proj")
        x = x + linear(fn.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp.0")), f"{b}.mlp.2")
    return x


def test_clip_of_a_pth_gives_the_original_penultimate_tokens(tmp_path: Path) -> None:
    w = clip_state()
    path = tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save(
        w | {"textual.head.0.weight": torch.zeros(2, 2), "log_scale": torch.tensor(1.0)}, path
    )
    model = load_clip(path, heads=4)
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = model(pixels, output_hidden_states=True)
    assert rel(got.hidden_states[-2], clip(w, pixels, 2, 4)) < TOLERANCE  # use_31_block
    last = clip(w, pixels, 3, 4)
    assert rel(got.last_hidden_state, last) < TOLERANCE
    post = fn.layer_norm(
        last[:, 0], (32,), w["visual.post_norm.weight"], w["visual.post_norm.bias"]
    )
    assert rel(got.image_embeds, post @ w["visual.head"]) < TOLERANCE
    assert not any(b.is_meta for b in model.buffers())


def test_clip_of_a_transformers_folder_is_the_same_module(tmp_path: Path) -> None:
    torch.save(clip_state(), tmp_path / "clip.pth")
    model = load_clip(tmp_path / "clip.pth", heads=4)
    model.save_pretrained(tmp_path / "with_projection")
    model.vision_model.save_pretrained(tmp_path / "image_encoder")
    pixels = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        expected = model(pixels)
        for folder in ("with_projection", "image_encoder"):
            got = load_clip(tmp_path / folder, heads=4)(pixels)
            assert torch.equal(got.last_hidden_state, expected.last_hidden_state)


def test_clip_with_an_unknown_number_of_heads_or_parts_missing_says_so(tmp_path: Path) -> None:
    w = clip_state()
    torch.save(w, tmp_path / "clip.pth")
    with pytest.raises(ModelError, match="CLIP of width 32: say its number of heads"):
        load_clip(tmp_path / "clip.pth")
    del w["visual.transformer.1.attn.to_qkv.weight"]
    torch.save(w, tmp_path / "less.pth")
    with pytest.raises(ModelError, match=r"3 missing: .*self_attn\.k_proj\.weight"):
        load_clip(tmp_path / "less.pth", heads=4)


def original_vae(model: nn.Module, blocks: int, levels: int) -> dict[str, Tensor]:
    """The names of ``Wan2.1_VAE.pth``, written by walking diffusers' modules in running order."""
    out: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        inner = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3",
                 "conv2": "residual.6", "conv_shortcut": "shortcut"}  # fmt: skip
        for key, tensor in module.state_dict().items():
            first, _, rest = key.partition(".")
            out[f"{name}.{inner.get(first, first)}.{rest}" if rest else f"{name}.{key}"] = (
                tensor.clone()
            )

    for tower in ("encoder", "decoder"):
        part = getattr(model, tower)
        put(f"{tower}.conv1", part.conv_in)
        put(f"{tower}.middle.0", part.mid_block.resnets[0])
        put(f"{tower}.middle.1", part.mid_block.attentions[0])
        put(f"{tower}.middle.2", part.mid_block.resnets[1])
        put(f"{tower}.head.0", part.norm_out)
        put(f"{tower}.head.2", part.conv_out)
    for i, block in enumerate(model.encoder.down_blocks):
        put(f"encoder.downsamples.{i}", block)
    i = 0
    for up in model.decoder.up_blocks:
        for module in [*up.resnets, *(up.upsamplers or [])]:
            put(f"decoder.upsamples.{i}", module)
            i += 1
    assert i == levels * (blocks + 1) + levels - 1
    put("conv1", model.quant_conv)
    put("conv2", model.post_quant_conv)
    return out


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    model = AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def test_the_vae_of_a_pth_gives_the_latents_and_pixels_of_diffusers(
    vae: nn.Module, tmp_path: Path
) -> None:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    names = original_vae(vae, blocks=2, levels=4)
    torch.save(names, tmp_path / "Wan2.1_VAE.pth")
    ours = load_vae(tmp_path / "Wan2.1_VAE.pth")
    theirs = convert_wan_vae_to_diffusers({k: v.clone() for k, v in names.items()})
    assert ours.state_dict().keys() == theirs.keys() == vae.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in theirs.items())
    assert ours.config.latents_mean == vae.config.latents_mean
    assert json.dumps(ours.config.temperal_downsample) == "[false, true, true]"
    video = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        assert torch.equal(ours.encode(video).latent_dist.mode(), latents)
        assert torch.equal(ours.decode(latents).sample, vae.decode(latents).sample)
    assert describe(tmp_path / "Wan2.1_VAE.pth")["kind"] == "wan-vae"


def test_a_vae_of_other_depth_or_from_a_folder_is_read_off_its_tensors(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1,
                             temperal_downsample=[True, False])  # fmt: skip
    torch.save(original_vae(model, blocks=1, levels=3), tmp_path / "vae.pth")
    model.save_pretrained(tmp_path / "vae")
    for path in (tmp_path / "vae.pth", tmp_path / "vae"):
        got = load_vae(path)
        assert got.config.dim_mult == [1, 2, 2]
        assert got.config.temperal_downsample == [True, False]
        assert all(torch.equal(got.state_dict()[k], v) for k, v in model.state_dict().items())
