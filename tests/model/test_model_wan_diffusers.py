"""Our Wan network beside diffusers' `WanTransformer3DModel`, an independent implementation.

Random weights: every vector is perturbed (fresh norms are ones and fresh biases zeros, which hides
a norm or a bias in the wrong place) and the head is not zero.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from s2v.model.conditioning import Condition
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

TOLERANCE = 1e-5
IMAGE_TOKENS = 7
# 512 rows of text: diffusers splits its context there.
T2V = WanConfig(width=72, ffn=160, heads=3, layers=2, text_width=20)
CLIP = T2V.model_copy(update={"image_width": 28})
ENDS = CLIP.model_copy(update={"image_positions": 2 * IMAGE_TOKENS})  # first and last frame

# Original name -> diffusers' name, in this order (written apart from our converter on purpose).
RENAMES = (
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    (".modulation", ".scale_shift_table"),
    ("self_attn.", "attn1."),
    ("cross_attn.", "attn2."),
    (".norm_k_img", ".norm_added_k"),
    (".k_img", ".add_k_proj"),
    (".v_img", ".add_v_proj"),
    (".q.", ".to_q."),
    (".k.", ".to_k."),
    (".v.", ".to_v."),
    (".o.", ".to_out.0."),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    (".norm3.", ".norm2."),
)


def renamed(name: str) -> str:
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return name


def pair(config: WanConfig, seed: int) -> tuple[WanModel, WanTransformer3DModel]:
    """The two networks with the same random weights, loaded strictly."""
    torch.manual_seed(seed)
    ours = WanModel(config)
    with torch.no_grad():
        for name, p in ours.named_parameters():
            if p.dim() == 1 or "modulation" in name or "emb_pos" in name:
                p.add_(0.3 * torch.randn_like(p))
            elif "embedding" in name:  # fresh ones are so small that all keys are alike
                p.copy_(torch.randn_like(p) * p[0].numel() ** -0.5)
        torch.nn.init.normal_(ours.head.head.weight, std=0.1)
    theirs = WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_width,
        ffn_dim=config.ffn,
        num_layers=config.layers,
        image_dim=config.image_width,
        added_kv_proj_dim=None if config.image_width is None else config.width,
        pos_embed_seq_len=config.image_positions,
    )
    theirs.load_state_dict({renamed(k): v.clone() for k, v in ours.state_dict().items()})
    return ours, theirs


def condition(config: WanConfig, references: int, size: tuple[int, int], seed: int) -> Condition:
    g = torch.Generator().manual_seed(seed)
    text_mask = torch.ones(2, 333, dtype=torch.bool)
    text_mask[1, 60:] = False
    there = torch.ones(2, references, dtype=torch.bool)
    return Condition(
        torch.randn(2, 333, config.text_width, generator=g),
        text_mask,
        torch.randn(2, config.in_channels, references, *size, generator=g),
        there,
        torch.randn(2, references, IMAGE_TOKENS, config.image_width or 4, generator=g),
        there.clone(),
    )


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach() - b.detach()).norm() / b.detach().norm())


def both(
    config: WanConfig, references: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Outputs of both networks, and the gradients of a random functional of them by parameter."""
    ours, theirs = (net.to(dtype) for net in pair(config, seed=references))
    size = 6, 10  # 3 x 5 tokens: odd both ways
    told = condition(config, references, size, seed=7 + references)
    latents = torch.randn(2, config.in_channels, 3, *size).to(dtype)
    t = torch.tensor([0.875, 0.137])
    text = torch.zeros(2, config.text_tokens, config.text_width, dtype=dtype)
    text[:, : told.text.shape[1]] = told.text * told.text_mask[..., None]
    image = None
    if config.image_width is not None:  # diffusers joins pairs of images only under positions
        image = told.image.flatten(*((1, 2) if config.image_positions is None else (0, 1)))
        image = image.to(dtype)
    out = ours(latents, t, told)
    expected = theirs(
        torch.cat([latents, told.references.to(dtype)], dim=2),
        1000 * t,
        text,
        image,
        return_dict=False,
    )[0]
    weight = torch.randn_like(expected)
    (out * weight).mean().backward()
    (expected * weight).mean().backward()
    others = dict(theirs.named_parameters())
    gradients = {}
    for name, p in ours.named_parameters():
        other = others.pop(renamed(name))
        assert p.grad is not None
        assert other.grad is not None
        gradients[name] = (p.grad, other.grad)
    assert others == {}, "parameters of diffusers that ours lacks"
    return out.detach(), expected.detach(), gradients


CASES = [(T2V, k) for k in range(5)] + [(CLIP, k) for k in range(1, 5)] + [(ENDS, 2)]
NAMES = [f"{'t2v' if c is T2V else 'clip' if c is CLIP else 'ends'}-{k}" for c, k in CASES]


@pytest.mark.parametrize(("config", "references"), CASES, ids=NAMES)
def test_values_and_gradients_are_those_of_diffusers(config: WanConfig, references: int) -> None:
    out, expected, gradients = both(config, references, torch.float32)
    assert out.shape == expected.shape
    assert relative(out, expected) < TOLERANCE
    ours, theirs = (torch.cat([g[i].flatten() for g in gradients.values()]) for i in range(2))
    assert relative(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(("config", "references"), CASES, ids=NAMES)
def test_the_gradient_of_every_parameter_is_that_of_diffusers(
    config: WanConfig, references: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: a key's bias hardly moves a softmax, and float32 leaves only noise of it.

    Both networks say ``.float()`` where half precisions must be widened; it widens to float64
    here. What is left are diffusers' sinusoids of the time, whose frequencies are float32.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    out, expected, gradients = both(config, references, torch.float64)
    assert out.dtype == torch.float64
    assert relative(out, expected) < TOLERANCE
    apart = {name: relative(*pair) for name, pair in gradients.items()}
    assert all(theirs.norm() > 0 for _, theirs in gradients.values())
    assert max(apart.values()) < TOLERANCE, sorted(apart.items(), key=lambda x: -x[1])[:5]
