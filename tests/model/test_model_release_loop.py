"""From noise to latents as the release does it: its loop restated around diffusers' network.

Nothing of ours is on the other side: the network is diffusers' `WanTransformer3DModel` with the
same random weights, the solver diffusers' UniPC on Wan's published levels or a line of Euler, the
loop a literal restatement: noise for all frames, the clean tail put in before each of three calls,
the whole stepped, the tail cut off at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor

from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.conditioning import Condition
from s2v.model.config import SampleConfig
from s2v.model.sample import denoise
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

CONFIG = WanConfig(
    width=48, ffn=80, heads=2, layers=2, text_width=20, rope_precision="float64", frequencies=64
)
T, SIZE, STEPS, SHIFT = 3, (6, 10), 8, 5.0
W_IMG, W_TXT = 5.0, 7.5


@pytest.fixture(scope="module")
def networks() -> tuple[WanModel, Any]:
    torch.manual_seed(0)
    ours = WanModel(CONFIG)
    with torch.no_grad():
        for name, p in ours.named_parameters():
            p.copy_(
                (1 + 0.2 * torch.randn_like(p)) if "norm" in name else 0.2 * torch.randn_like(p)
            )
    theirs = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=20, ffn_dim=80, num_layers=2,
        freq_dim=64,
    )  # fmt: skip
    renamed = {str(WAN_DIFFUSERS.there(k)): v.clone() for k, v in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    return ours.eval(), theirs.eval()


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _release(theirs: Any, noise: Tensor, ref: Tensor, text: Tensor, null: Tensor, name: str) -> Any:
    def padded(words: Tensor) -> Tensor:
        rows = torch.zeros(1, 512, words.shape[-1])
        rows[0, : len(words)] = words
        return rows

    count = ref.shape[2]
    context, context_null, ref_neg = padded(text), padded(null), torch.zeros_like(ref)
    u = np.linspace(0.999, 0, STEPS + 1)
    levels = SHIFT * u / (1 + (SHIFT - 1) * u)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    scheduler.set_timesteps(sigmas=levels[:-1].copy())

    def network(x: Tensor, t: int, words: Tensor) -> Tensor:
        out: Tensor = theirs(x, torch.tensor([t]), words, return_dict=False)[0]
        return out

    latents = noise
    for i, level in enumerate(levels[:-1]):
        t = int(1000 * level)
        if count:
            with_ref = torch.cat([latents[:, :, :-count], ref], dim=2)
            pos_it = network(with_ref, t, context)
            pos_i = network(with_ref, t, context_null)
            neg = network(torch.cat([latents[:, :, :-count], ref_neg], dim=2), t, context_null)
            pred = neg + W_IMG * (pos_i - neg) + W_TXT * (pos_it - pos_i)
        else:  # Wan's own loop for text alone
            cond, uncond = network(latents, t, context), network(latents, t, context_null)
            pred = uncond + W_TXT * (cond - uncond)
        if name == "unipc":
            latents = scheduler.step(pred, scheduler.timesteps[i], latents, return_dict=False)[0]
        else:
            latents = latents + (levels[i + 1] - level) * pred
    return latents[:, :, :-count] if count else latents


@pytest.mark.parametrize("name", ["unipc", "euler"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_sampling_wan_is_the_releases_loop_end_to_end(
    networks: tuple[WanModel, Any], count: int, name: str
) -> None:
    ours, theirs = networks
    noise = _random(1, 16, T + count, *SIZE, seed=1)
    # Each as it comes from the autoencoder: not alike, so that their order is felt.
    ref = _random(1, 16, count, *SIZE, seed=2) * torch.arange(1, count + 1).reshape(1, 1, -1, 1, 1)
    text, null = _random(9, 20, seed=3), _random(14, 20, seed=4)  # the negative one is longer
    expected = _release(theirs, noise, ref, text, null, name)
    there = torch.ones(1, count, dtype=torch.bool)
    told = Condition(
        text[None], torch.ones(1, 9, dtype=torch.bool), ref, there,
        torch.zeros(1, count, 1, 4), there,
    )  # fmt: skip
    for branches in ("sequential", "batched"):
        config = SampleConfig(
            preset="release", steps=STEPS, shift=SHIFT, solver=name, branches=branches
        )
        made = denoise(ours, told, null, noise[:, :, :T], config)
        assert float((made - expected).norm() / expected.norm()) < 1e-4


def test_the_comparison_would_notice(networks: tuple[WanModel, Any]) -> None:
    """What a port gets wrong first moves the outcome a hundred times further than that."""
    ours, theirs = networks
    noise, ref = _random(1, 16, T + 2, *SIZE, seed=1), _random(1, 16, 2, *SIZE, seed=2)
    text, null = _random(9, 20, seed=3), _random(14, 20, seed=4)
    expected = _release(theirs, noise, ref, text, null, "unipc")
    there, words = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 9, dtype=torch.bool)

    def apart(references: Tensor = ref, **options: Any) -> float:
        told = Condition(text[None], words, references, there, torch.zeros(1, 2, 1, 4), there)
        config = SampleConfig(preset="release", **{"steps": STEPS, **options})
        made = denoise(ours, told, null, noise[:, :, :T], config)
        return float((made - expected).norm() / expected.norm())

    assert apart() < 1e-4
    wrong = {
        "order": apart(ref.flip(2)),
        "scales": apart(image_scale=7.5, text_scale=5.0),
        "first level": apart(first_level=1.0),
        "guidance order": apart(order="text-then-image"),
        "shift": apart(shift=3.0),
        "timesteps": apart(whole_timesteps=False),
    }
    assert min(wrong.values()) > 1e-3, wrong
