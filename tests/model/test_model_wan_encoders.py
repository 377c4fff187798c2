"""Wan's VAE, umT5 and CLIP as the trainer's encoders: small modules with random weights.

The modules are the production classes of diffusers and transformers; what these tests hold is
what we do around them. The renaming of Wan's own files is held by test_model_checkpoint_frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as fn
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from s2v.model.config import DataConfig
from s2v.model.config_encoders import EncodersConfig
from s2v.model.data.features import Encoders
from s2v.model.encoders import text_encoder
from s2v.model.errors import ModelError
from s2v.model.wan_encoders import ClipTokens, Umt5Text, WanVae, clean_prompt, fingerprint

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "runs", "&", "café", "é"]


@pytest.fixture(scope="module")
def vae() -> WanVae:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return WanVae(AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1), "ab" * 32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as google/umt5-xxl is one: words here, `</s>` behind them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, SPECIAL["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder = tmp_path_factory.mktemp("umt5-xxl")
    PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a small umT5 encoder."""
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("text_encoder")
    UMT5EncoderModel(config).save_pretrained(folder)
    return folder


def clip_module() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=28, patch_size=14, projection_dim=12, hidden_act="gelu",
        )
    ).eval()  # fmt: skip


def video(frames: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def test_latents_are_the_mode_whitened_by_the_published_numbers(vae: WanVae) -> None:
    """0 in, -mean / std out: the numbers are Wan2.1's, of which every checkpoint speaks."""
    x = video(9)
    z = vae.encode(x)
    assert z.shape == (16, 3, 4, 6)
    pixels = torch.from_numpy(x).float().permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        mode = vae.module.encode(pixels).latent_dist.mean[0]
    mean, std = -0.7571, 2.8184  # channel 0, as published
    assert torch.allclose(z[0], (mode[0] - mean) / std, atol=1e-6)
    mean, std = -0.2921, 1.9160  # channel 15
    assert torch.allclose(z[15], (mode[15] - mean) / std, atol=1e-6)


def test_a_reference_is_the_first_latent_frame_of_a_video_that_begins_with_it(vae: WanVae) -> None:
    x = video(5)
    assert torch.allclose(vae.encode(x[:1])[:, 0], vae.encode(x)[:, 0], rtol=0, atol=1e-6)


def test_decoding_is_the_modules_on_the_unwhitened_latents(vae: WanVae) -> None:
    z = vae.encode(video(5))
    out = vae.decode(z)
    assert out.shape == (5, 32, 48, 3)
    assert out.dtype == np.uint8
    with torch.no_grad():
        raw = vae.module.decode((z * vae.std + vae.mean)[None]).sample[0]
    expected = ((raw.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(out, expected)


def test_nothing_is_kept_between_calls_of_the_vae(vae: WanVae) -> None:
    """Its causal convolutions keep frames; a clip must not see the one before."""
    first = vae.encode(video(5))
    vae.encode(video(9, seed=1))
    assert torch.equal(vae.encode(video(5)), first)


@pytest.mark.parametrize("shape", [(4, 32, 48), (5, 30, 48), (5, 32, 44)])
def test_sizes_that_the_vae_cannot_take_are_named(vae: WanVae, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="4n\\+1 frames"):
        vae.encode(video(*shape))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a \n red\tfox ", "a red fox"),
        ("fox &amp;amp; caf\u00c3\u00a9", "fox & café"),
        ("a < b &amp;amp; c", "a < b & c"),  # which ftfy leaves alone
        ("", ""),
    ],
)
def test_prompts_are_cleaned_as_wan_cleans_them(raw: str, cleaned: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    assert clean_prompt(raw) == cleaned == prompt_clean(raw)


def test_text_is_what_wan_cuts_out_of_its_padded_rows(umt5: Path, tokenizer: Path) -> None:
    """Wan runs 512 rows with a mask and cuts; running the words alone gives the same numbers."""
    encoder = Umt5Text.load(umt5, tokenizer, tokens=12, dtype=torch.float32)
    out = encoder.encode("a red  fox runs")
    ids = torch.tensor([[3, 4, 5, 6, 1] + [0] * 7])
    mask = (ids > 0).long()
    with torch.no_grad():
        padded = encoder.module(ids, attention_mask=mask).last_hidden_state[0, :5]
    assert out.shape == (5, 16)
    assert torch.allclose(out, padded, rtol=0, atol=1e-5)
    assert encoder.encode("").shape == (1, 16)  # </s> alone


def test_long_prompts_are_cut_and_keep_their_end(umt5: Path, tokenizer: Path) -> None:
    encoder = Umt5Text.load(umt5, tokenizer, tokens=4, dtype=torch.float32)
    with torch.no_grad():
        expected = encoder.module(torch.tensor([[3, 3, 3, 1]])).last_hidden_state[0]
    assert torch.allclose(encoder.encode("a " * 50), expected, rtol=0, atol=1e-6)


def test_features_of_other_weights_tokenizers_or_precision_never_fit(
    umt5: Path, tokenizer: Path, tmp_path: Path
) -> None:
    ids = {Umt5Text.load(umt5, tokenizer, dtype=torch.float32).id}
    ids.add(Umt5Text.load(umt5, tokenizer, dtype=torch.bfloat16).id)
    ids.add(Umt5Text.load(umt5, tokenizer, tokens=9, dtype=torch.float32).id)
    other = tmp_path / "tokenizer"
    other.mkdir()
    for path in tokenizer.iterdir():
        (other / path.name).write_bytes(path.read_bytes() + b"\n")
    ids.add(Umt5Text.load(umt5, other, dtype=torch.float32).id)
    assert len(ids) == 4


def test_a_fingerprint_is_of_contents_not_of_places(tmp_path: Path) -> None:
    made = []
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.tensor([value])}, folder / "model.safetensors")
        (folder / "README.md").write_text(name)
        made.append(fingerprint(folder))
    assert made[0] == made[1] != made[2]
    with pytest.raises(ModelError, match="no such file"):
        fingerprint(tmp_path / "absent")


def test_clip_tokens_are_those_before_the_last_block() -> None:
    module = clip_module()
    encoder = ClipTokens(module, "cd" * 32)
    image = video(1, 40, 70)[0]
    out = encoder.encode(image)
    assert out.shape == (encoder.tokens, encoder.width) == (5, 32)
    pixels = encoder.pixels(image)
    vision = module.vision_model
    with torch.no_grad():  # the blocks by hand, all but the last
        x = vision.pre_layrnorm(vision.embeddings(pixels))
        for block in vision.encoder.layers[:-1]:
            y = block(x, None)
            x = y[0] if isinstance(y, tuple) else y
    assert torch.allclose(out, x[0], rtol=0, atol=1e-5)


def test_references_come_to_clip_as_in_wan() -> None:
    """A literal restatement of Wan's: bicubic on [-1, 1], then CLIP's mean and spread."""
    image = video(1, 40, 70)[0]
    u = torch.from_numpy(image).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
    x = fn.interpolate(u[None], size=(28, 28), mode="bicubic", align_corners=False)
    x = x.mul(0.5).add(0.5)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = torch.stack([(x[0, c] - mean[c]) / std[c] for c in range(3)])
    got = ClipTokens(clip_module(), "cd" * 32).pixels(image)
    assert torch.allclose(got[0], expected, rtol=0, atol=1e-5)


def test_a_padded_reference_keeps_its_aspect() -> None:
    image = np.full((20, 60, 3), 10, np.uint8)
    encoder = ClipTokens(clip_module(), "cd" * 32, "pad")
    x = encoder.pixels(image)
    white = (1 - 0.48145466) / 0.26862954
    assert torch.allclose(x[0, 0, 0], torch.full((28,), white), atol=1e-3)
    assert float(x[0, 0, 14].max()) < 0


def test_the_three_fill_the_trainers_seat(vae: WanVae, umt5: Path, tokenizer: Path) -> None:
    """As the feature store uses them: one reference image, fitted and padded for the VAE."""
    text = text_encoder(
        EncodersConfig(
            text="umt5", text_weights=str(umt5), text_tokenizer=str(tokenizer),
            text_tokens=12, precision="float32",
        )
    )  # fmt: skip
    encoders = Encoders(text, ClipTokens(clip_module(), "cd" * 32), vae)
    image = np.asarray(Image.fromarray(video(1, 40, 70)[0]))
    latents, tokens = encoders.reference(image, DataConfig(height=32, width=48))
    assert latents.shape == (16, 4, 6)
    assert tokens.shape == (5, 32)
    assert isinstance(text.encode("a fox"), Tensor)
    assert len(encoders.fingerprint(DataConfig())) == 16
