"""The whole MMDiT beside diffusers' whole HunyuanVideo and SD3 transformers.

What lies around the blocks: patches, embeddings of text and time, the chain of the blocks, the
last modulation, the head. References are frames behind the video in full attention, where they
stand as HunyuanVideo's later frames do. Random weights, none of them zero.

Where the architectures differ, one of the two is put out of work: HunyuanVideo's refiner of the
text has no block here, or stands before our network as a part of the text encoder; our image
tokens are there and hidden; SD3's table of positions and our rotary ones are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, SD3Transformer2DModel
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.block_maps import double_block, single_block
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.mmdit import MMDiT, Widths

HEADS, HEAD, C, TEXT, IMAGE = 3, 12, 4, 10, 5
WIDTH = HEADS * HEAD
BATCH, FRAMES, SIZE, WORDS = 2, 3, (6, 10), 7  # 3 x 5 tokens a frame
TOLERANCE = 1e-5
State = dict[str, Tensor]


def _woken(module: nn.Module) -> Any:
    torch.manual_seed(11)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.02, std=0.15)
    return module.eval()


def _part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _around(state: State, patch: str, text: str) -> State:
    """Ours of what both models have around their blocks; also of their gradients."""
    out = {}
    for kind in ("weight", "bias"):
        out[f"text_in.{kind}"] = state[f"{text}.{kind}"]
        for i, n in ((0, 1), (2, 2)):
            stem = "time_text_embed.{}.linear_" + f"{n}.{kind}"
            out[f"time_in.{i}.{kind}"] = state[stem.format("timestep_embedder")]
            out[f"pooled_in.{i}.{kind}"] = state[stem.format("text_embedder")]
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)  # the other way round
        out[f"final.linear.{kind}"] = torch.cat([shift, scale])
    kernel = state[f"{patch}.weight"]  # [d, C, (1,) 2, 2]; our tokens have their channels last
    out["vision_in.weight"] = kernel.movedim(1, -1).flatten(1)
    out["vision_in.bias"] = state[f"{patch}.bias"]
    return out


def _hunyuan(state: State) -> State:
    out = _around(state, "x_embedder.proj", "context_embedder.proj_in")
    for kind in ("weight", "bias"):  # their rows are [C, 1, 2, 2]
        rows = state[f"proj_out.{kind}"]
        rows = rows.reshape(C, 1, 2, 2, *rows.shape[1:])
        out[f"head.{kind}"] = rows.movedim(0, 3).flatten(0, 3)
    for ours, theirs, convert in (
        ("double_blocks", "transformer_blocks", double_block),
        ("single_blocks", "single_transformer_blocks", single_block),
    ):
        for i in range(2):
            block = convert(_part(state, f"{theirs}.{i}."))
            out |= {f"{ours}.{i}.{k}": v for k, v in block.items()}
    return out


def _sd3(state: State) -> State:
    out = _around(state, "pos_embed.proj", "context_embedder")
    out |= {f"head.{kind}": state[f"proj_out.{kind}"] for kind in ("weight", "bias")}
    for i in range(3):
        block = double_block(_part(state, f"transformer_blocks.{i}."))
        out |= {f"double_blocks.{i}.{k}": v for k, v in block.items()}
    return out


def _ours(state: State, text: int = TEXT, **options: Any) -> MMDiT:
    """Our network with those weights; what is ours alone adds nothing or is hidden."""
    config = NetworkConfig(
        width=WIDTH, heads=HEADS, attention="full", reference_embedding=False,
        rope_axes=(4, 4, 4), rope_theta=256.0, **{"pooled_text": "mean", **options},
    )  # fmt: skip
    model = _woken(MMDiT(config, Widths(C, text, IMAGE)))
    nn.init.zeros_(model.kind)
    told = model.load_state_dict(state, strict=False)
    assert told.unexpected_keys == []
    assert {k.split(".")[0] for k in told.missing_keys} == {"kind", "image_in"}
    return model  # type: ignore[no-any-return]


def _condition(count: int, text: Tensor, *, masked: bool = True) -> Condition:
    torch.manual_seed(20 + count)
    there = torch.ones(BATCH, count, dtype=torch.bool)
    words = torch.ones(BATCH, text.shape[1], dtype=torch.bool)
    if masked:
        words[0, 4:] = False
    return Condition(
        text, words,
        torch.randn(BATCH, C, count, *SIZE).to(text).requires_grad_(), there,
        torch.randn(BATCH, count, 2, IMAGE).to(text), torch.zeros_like(there),
    )  # fmt: skip


def _apart(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def _agree(
    theirs: nn.Module,
    ours: MMDiT,
    convert: Callable[[State], State],
    outputs: tuple[Tensor, Tensor],
    inputs: list[Tensor],
    each: bool,
) -> None:
    """Outputs, gradients of the inputs and of the parameters, together or one by one."""
    found = []
    for out in outputs:
        for x in inputs:
            x.grad = None
        torch.manual_seed(5)
        torch.autograd.backward((out * torch.randn(out.shape).to(out)).sum())
        found.append([x.grad for x in inputs])
    assert _apart(outputs[1], outputs[0]) < TOLERANCE
    for a, b in zip(*found, strict=True):
        assert _apart(b, a) < TOLERANCE
    expected = convert({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    got = {n: p.grad for n, p in ours.named_parameters() if n in expected and p.grad is not None}
    assert got.keys() == expected.keys()
    idle = {n for n, g in expected.items() if not g.any()}  # queries whose answers nobody reads
    assert all(n.endswith("context.norm.query.weight") for n in idle)
    assert not any(got[n].any() for n in idle)
    expected = {n: g for n, g in expected.items() if n not in idle}
    if each:
        apart = {n: _apart(got[n], g) for n, g in expected.items()}
        assert max(apart.values()) < TOLERANCE, sorted(apart.items(), key=lambda x: -x[1])[:5]
    whole = [torch.cat([x[n].flatten() for n in sorted(expected)]) for x in (got, expected)]
    assert _apart(*whole) < TOLERANCE


def _hunyuans(refiner: int, pooled: int) -> Any:
    return _woken(
        HunyuanVideoTransformer3DModel(
            in_channels=C, out_channels=C, num_attention_heads=HEADS, attention_head_dim=HEAD,
            num_layers=2, num_single_layers=2, num_refiner_layers=refiner, patch_size=2,
            patch_size_t=1, guidance_embeds=False, text_embed_dim=TEXT,
            pooled_projection_dim=pooled, rope_theta=256.0, rope_axes_dim=(4, 4, 4),
        )
    )  # fmt: skip


def _levels_and_video(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    video = torch.randn(BATCH, C, FRAMES, *SIZE).to(dtype).requires_grad_()
    return torch.tensor([0.875, 0.125]), video


@pytest.mark.parametrize(
    ("count", "each"), [(0, False), (1, False), (2, True), (3, False), (4, True)]
)
def test_the_network_is_hunyuanvideos(
    count: int, each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``each``: every parameter's gradient, in float64: a key's bias hardly moves a softmax."""
    dtype = torch.float64 if each else torch.float32
    if each:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    theirs = _hunyuans(0, TEXT).to(dtype)
    ours = _ours(_hunyuan(dict(theirs.state_dict())), double_layers=2, single_layers=2).to(dtype)
    torch.manual_seed(3)
    text = torch.randn(BATCH, WORDS, TEXT).to(dtype).requires_grad_()
    told = _condition(count, text)
    t, video = _levels_and_video(dtype)
    there = told.text_mask[..., None].to(dtype)
    expected = theirs(
        torch.cat([video, told.references], dim=2),
        1000 * t,
        text,
        told.text_mask,
        (text * there).sum(dim=1) / there.sum(dim=1),
        return_dict=False,
    )[0]
    got = ours(video, t, told)
    inputs = [video, text, *([told.references] if count else [])]
    _agree(theirs, ours, _hunyuan, (expected, got), inputs, each)


def test_the_network_behind_hunyuanvideos_refiner_is_hunyuanvideos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refiner as the last part of the text encoder; gradients pass through it alike."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    theirs = _hunyuans(1, 6).double()
    state = _hunyuan(dict(theirs.state_dict()))
    # Their pooled text is one vector for all here: a constant in our time vector.
    pooled = torch.randn(1, 6).double().expand(BATCH, -1)
    with torch.no_grad():
        state["time_in.2.bias"] = (
            state["time_in.2.bias"] + theirs.time_text_embed.text_embedder(pooled[:1])[0]
        )
    state = {k: v for k, v in state.items() if not k.startswith("pooled_in")}
    state["text_in.weight"], state["text_in.bias"] = torch.eye(WIDTH), torch.zeros(WIDTH)
    ours = _ours(state, WIDTH, pooled_text="none", double_layers=2, single_layers=2).double()
    torch.manual_seed(3)
    text = torch.randn(BATCH, WORDS, TEXT).double().requires_grad_()
    t, video = _levels_and_video(torch.float64)
    words = _condition(2, text).text_mask
    refined = theirs.context_embedder(text, 1000 * t, words)
    told = _condition(2, refined)
    expected = theirs(
        torch.cat([video, told.references], dim=2), 1000 * t, text, words, pooled,
        return_dict=False,
    )[0]  # fmt: skip
    got = ours(video, t, told)
    assert _apart(got, expected) < TOLERANCE
    grads = []
    for out in (expected, got):
        for x in (video, text, told.references, *theirs.parameters()):
            x.grad = None
        torch.manual_seed(5)
        torch.autograd.backward((out * torch.randn(out.shape).to(out)).sum(), retain_graph=True)
        # Together: a bias of its keys moves no softmax at all, and has rounding for a gradient.
        refiner = torch.cat([p.grad.flatten() for p in theirs.context_embedder.parameters()])
        grads.append([video.grad, text.grad, told.references.grad, refiner])
    for a, b in zip(*grads, strict=True):
        assert _apart(b, a) < TOLERANCE


@pytest.mark.parametrize(("qk_norm", "theirs_norm"), [("none", None), ("rms", "rms_norm")])
@pytest.mark.parametrize("each", [False, True])
def test_the_network_without_single_blocks_is_sd3s(
    qk_norm: str, theirs_norm: str | None, each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last block's context has no way out. A still picture, without references."""
    dtype = torch.float64 if each else torch.float32
    if each:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    tables = rope.tables
    monkeypatch.setattr(rope, "tables", lambda at, axes, theta: tables(0 * at, axes, theta))
    theirs = _woken(
        SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=C, out_channels=C, num_layers=3,
            attention_head_dim=HEAD, num_attention_heads=HEADS, joint_attention_dim=TEXT,
            caption_projection_dim=WIDTH, pooled_projection_dim=TEXT, pos_embed_max_size=8,
            qk_norm=theirs_norm,
        )
    ).to(dtype)  # fmt: skip
    theirs.pos_embed.pos_embed.zero_()
    state = _sd3(dict(theirs.state_dict()))
    ours = _ours(state, double_layers=3, single_layers=0, qk_norm=qk_norm).to(dtype)
    torch.manual_seed(3)
    text = torch.randn(BATCH, WORDS, TEXT).to(dtype).requires_grad_()
    t, video = _levels_and_video(dtype)
    expected = theirs(
        video[:, :, 0], text, text.mean(dim=1), 1000 * t, return_dict=False
    )[0]  # fmt: skip
    got = ours(video[:, :, :1], t, _condition(0, text, masked=False))[:, :, 0]
    _agree(theirs, ours, _sd3, (expected, got), [video, text], each)
