"""The pipeline that goes with an export runs in diffusers, and does what the release does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from s2v.model.export.run import export
from s2v.model.wan import WanModel

HEIGHT, WIDTH, FRAMES = 32, 48, 5


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """Tiny random umT5, VAE and a tokenizer of whole words, as stock classes."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    pad, end, unknown = "<pad>", "</s>", "<unk>"
    words = [pad, end, unknown, "a", "rabbit", "runs", "cat", "bad"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(0)
    return {
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token=pad, eos_token=end, unk_token=unknown
        ),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=8, d_model=20, d_kv=5, d_ff=24, num_layers=1, num_heads=4)
        ).eval(),
        "vae": AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, with every tensor random."""
    from s2v.model.wan_config import WanConfig

    place = tmp_path_factory.mktemp("phantom")
    model = WanModel(WanConfig(width=24, heads=2, layers=2, ffn=40, text_width=20, frequencies=16))
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    save_file(model.state_dict(), place / "w.safetensors")
    return export(place / "w.safetensors", "diffusers", place / "out", heads=2).out


@pytest.fixture(scope="module")
def pipe(folder: Path, parts: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(
        folder, trust_remote_code=True, local_files_only=True, **parts
    )
    made.set_progress_bar_config(disable=True)
    return made


def images(n: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(40, 20), (17, 60), (48, 32), (9, 9)][:n]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]


def run(pipe: Any, n: int, **options: Any) -> Tensor:
    given = {
        "prompt": "a rabbit runs", "negative_prompt": "bad", "height": HEIGHT, "width": WIDTH,
        "num_frames": FRAMES, "num_inference_steps": 4, "output_type": "latent",
        "generator": torch.Generator().manual_seed(3), "references": images(n),
    }  # fmt: skip
    latents: Tensor = pipe(**{**given, **options}).frames
    return latents


def test_a_folder_with_all_components_loads_by_name_alone(
    pipe: Any, folder: Path, parts: dict[str, Any], tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    pipe.save_pretrained(tmp_path / "whole")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "PhantomPipeline"]
    again = DiffusionPipeline.from_pretrained(
        tmp_path / "whole", custom_pipeline=str(folder), trust_remote_code=True, **parts
    )
    again.set_progress_bar_config(disable=True)
    assert type(again).__name__ == "PhantomPipeline"
    assert torch.equal(run(again, 1), run(pipe, 1))


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_it_makes_a_video_of_the_asked_size(pipe: Any, output_type: str) -> None:
    frames = pipe(
        "a rabbit runs", images(2), height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=2, output_type=output_type,
        generator=torch.Generator().manual_seed(1),
    ).frames[0]  # fmt: skip
    if output_type == "pil":
        assert [f.size for f in frames] == [(WIDTH, HEIGHT)] * FRAMES
        return
    shape = (FRAMES, HEIGHT, WIDTH, 3) if output_type == "np" else (FRAMES, 3, HEIGHT, WIDTH)
    assert tuple(frames.shape) == shape
    assert bool(np.isfinite(np.asarray(frames)).all())


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 4])
def test_it_is_the_releases_loop(pipe: Any, n: int) -> None:
    """The release's loop, restated: noise over T + K, tail put back, three branches, tail cut."""
    from diffusers import UniPCMultistepScheduler

    w_img, w_txt = 5.0, 7.5
    random = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 2 + n, HEIGHT // 8, WIDTH // 8, generator=random)
    config = pipe.vae.config
    mean = torch.tensor(config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, 16, 1, 1, 1)
    coded = []
    for image in images(n):
        canvas = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
        ratio = image.width / image.height
        wide = ratio > WIDTH / HEIGHT
        size = (WIDTH, int(WIDTH / ratio)) if wide else (int(HEIGHT * ratio), HEIGHT)
        left, top = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
        canvas.paste(image.resize(size, Image.Resampling.LANCZOS), (left, top))
        x = (torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
        coded.append((pipe.vae.encode(x[None, :, None]).latent_dist.mode() - mean) / std)
    refs = torch.cat(coded, dim=2)
    text, null = pipe.encode_prompt("a rabbit runs", "bad", max_sequence_length=512)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, 5)[:-1])
    for t in scheduler.timesteps:

        def f(z: Tensor, tail: Tensor, embeds: Tensor, t: Tensor = t) -> Tensor:
            x = torch.cat([z[:, :, :-n], tail], dim=2)
            out: Tensor = pipe.transformer(x, t[None], embeds, return_dict=False)[0]
            return out

        pos_it, pos_i = f(latents, refs, text), f(latents, refs, null)
        neg = f(latents, torch.zeros_like(refs), null)
        v = neg + w_img * (pos_i - neg) + w_txt * (pos_it - pos_i)
        latents = scheduler.step(v, t, latents, return_dict=False)[0]
    expected = latents[:, :, :-n]
    got = run(pipe, n)
    assert got.shape == expected.shape
    assert float((got - expected).norm() / expected.norm()) < 1e-5


def test_the_grid_is_the_releases(pipe: Any) -> None:
    pipe._set_timesteps(50, torch.device("cpu"))
    sigmas = pipe.scheduler.sigmas * 1000
    assert [round(float(s), 1) for s in sigmas[:2]] == [999.8, 995.7]
    assert [round(float(s), 1) for s in sigmas[48:50]] == [172.3, 92.5]
    assert pipe.scheduler.timesteps[:2].tolist() == [999, 995]


def test_references_scales_and_prompts_each_have_their_effect(pipe: Any) -> None:
    one = run(pipe, 1)
    assert torch.equal(one, run(pipe, 1))
    other = [images(2)[1]]
    assert not torch.allclose(one, run(pipe, 1, references=other), atol=1e-3)
    assert not torch.allclose(one, run(pipe, 1, prompt="a cat runs"), atol=1e-3)
    # Without the two scales what remains is the negative prompt with zeros for the reference.
    plain = {"guidance_scale_image": 0.0, "guidance_scale_text": 0.0}
    first = run(pipe, 1, **plain)
    assert torch.equal(first, run(pipe, 1, references=other, prompt="a cat runs", **plain))


def test_two_prompts_share_references_and_none_is_text_to_video(pipe: Any) -> None:
    noise = torch.randn(1, 16, 3, HEIGHT // 8, WIDTH // 8)
    both = run(pipe, 1, prompt=["a rabbit runs", "a cat runs"], latents=noise.repeat(2, 1, 1, 1, 1))
    alone = run(pipe, 1, prompt="a cat runs", latents=noise)
    assert torch.allclose(both[1], alone[0], atol=1e-4)
    free = run(pipe, 0)
    assert free.shape[2] == 2
    assert bool(torch.isfinite(free).all())


def test_a_lora_loads_into_the_pipeline_by_its_own_method(
    pipe: Any, folder: Path, tmp_path: Path
) -> None:
    random = torch.Generator().manual_seed(7)
    given = {}
    for i in range(2):
        given[f"blocks.{i}.self_attn.q.lora_A.weight"] = torch.randn(2, 24, generator=random)
        given[f"blocks.{i}.self_attn.q.lora_B.weight"] = torch.randn(24, 2, generator=random)
    save_file(given, tmp_path / "l.safetensors")
    made = export(tmp_path / "l.safetensors", "lora", tmp_path / "lora", base=folder)
    before = run(pipe, 1)
    pipe.load_lora_weights(str(made.out), weight_name="pytorch_lora_weights.safetensors")
    try:
        assert not torch.allclose(run(pipe, 1), before, atol=1e-3)
        off = run(pipe, 1, attention_kwargs={"scale": 0.0})
        assert torch.allclose(off, before, atol=1e-4)
    finally:
        pipe.unload_lora_weights()
    assert torch.equal(run(pipe, 1), before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"references": images(4) + images(1)}, "5 references, at most 4"),
        ({"references": ["rabbit.png"]}, "must be PIL images, not str"),
        ({"num_frames": 6}, "must be 4n \\+ 1"),
        ({"height": 40}, "48 x 40 must divide by 16"),
        ({"latents": torch.zeros(1, 16, 2, 4, 6)}, r"\(1, 16, 3, 4, 6\) are needed"),
    ],
)
def test_wrong_input_is_told(pipe: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        run(pipe, 1, **options)


def test_the_file_needs_nothing_of_ours(folder: Path) -> None:
    text = (folder / "pipeline.py").read_text()
    assert "s2v" not in text
    assert "Apache-2.0" in text
