"""Training from encoded shards is training: the same losses and weights to the last bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s2v.model import deferred
from s2v.model.config import Config
from s2v.model.data.features import Features
from s2v.model.encoders import image_encoder, text_encoder, wan_vae
from s2v.model.errors import ModelError
from s2v.model.heldout import heldout
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import train

sys.path.append(str(Path(__file__).parent))  # what both latents tests share

from latents_kit import encoded, own, samples

Tiny = Callable[..., Config]
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
WORDS = ["<pad>", "</s>", "<unk>", "a", "shape", "moves"]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Folders of a small Wan VAE, umT5 and CLIP with random weights, as settings."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        PreTrainedTokenizerFast,
        UMT5Config,
        UMT5EncoderModel,
    )

    base = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    vae.save_pretrained(base / "vae")
    UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).save_pretrained(base / "umt5")  # fmt: skip
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, SPECIAL["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL).save_pretrained(base / "tokenizer")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=768, intermediate_size=64, num_hidden_layers=2, num_attention_heads=12,
            image_size=28, patch_size=14, projection_dim=12, hidden_act="gelu",
        )
    ).save_pretrained(base / "clip")  # fmt: skip
    return (
        "autoencoder.kind=wan", f"autoencoder.weights={base / 'vae'}",
        "encoders.text=umt5", f"encoders.text_weights={base / 'umt5'}",
        f"encoders.text_tokenizer={base / 'tokenizer'}", "encoders.text_tokens=12",
        "encoders.image=clip", f"encoders.image_weights={base / 'clip'}",
        "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=1",
        "wan.text_width=16", "wan.text_tokens=12", "wan.image_width=768",
    )  # fmt: skip


def _weights(run: Path) -> dict[str, torch.Tensor]:
    model, _ = Run(run).network("model", torch.device("cpu"))
    return dict(model.state_dict())


def _losses(run: Path) -> list[Any]:
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if "loss" in k or k == "grad_norm"} for x in lines]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", ["mmdit", "wan"])
def test_five_steps_on_encoded_shards_are_five_steps_on_raw_ones(
    network: str, dtype: str, drawn_shards: Path, tiny: Tiny, frozen: tuple[str, ...],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Raw: the trainer encodes. Encoded: it may not. In bfloat16 both round before training."""
    wan = frozen if network == "wan" else ()
    common = (*wan, f"latents.dtype={dtype}", "train.steps=5", "train.batch=2", "data.variants=2",
              "optim.warmup=0")  # fmt: skip
    shards = own(drawn_shards, tmp_path, "in-00-000", "in-01-001", "cross-00-000", "cross-01-001")
    raw = train(tiny(*common, "latents.use=off"), shards, tmp_path / "raw", quiet)
    config = tiny(*common, "latents.use=require")
    (tmp_path / "cached").mkdir()
    fitted = tmp_path / "raw" / "autoencoder.safetensors"
    if fitted.is_file():
        (tmp_path / "cached" / fitted.name).write_bytes(fitted.read_bytes())
    encoded(config, shards, tmp_path / "cached")
    cached = train(config, shards, tmp_path / "cached", quiet)
    assert not (tmp_path / "cached" / "cache" / "features").exists(), "nothing was made"
    assert len(_losses(tmp_path / "raw")) == 5
    assert _losses(tmp_path / "raw") == _losses(tmp_path / "cached")
    assert raw.steps == cached.steps == 5
    one, other = _weights(tmp_path / "raw"), _weights(tmp_path / "cached")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_phases_of_two_sizes_and_a_reading_process_change_nothing(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """The second phase's size is among the encoded; a worker reads what the trainer would."""
    shards = own(drawn_shards, tmp_path, "in-00-000", "in-01-001", "cross-00-000", "cross-01-001")
    common = (
        "train.steps=4", "train.batch=2", "optim.warmup=0",
        "data.phases=[{ from_step = 2, sizes = [[5, 32, 48]] }]",
    )  # fmt: skip
    train(tiny(*common, "latents.use=off"), shards, tmp_path / "raw", quiet)
    config = tiny(*common, "latents.use=require", "data.workers=1")
    (tmp_path / "cached").mkdir()
    Run(tmp_path / "cached").autoencoder.write_bytes(Run(tmp_path / "raw").autoencoder.read_bytes())
    encoded(config, shards, tmp_path / "cached")
    train(config, shards, tmp_path / "cached", quiet)
    assert len(_losses(tmp_path / "raw")) == 4
    assert _losses(tmp_path / "raw") == _losses(tmp_path / "cached")
    one, other = _weights(tmp_path / "raw"), _weights(tmp_path / "cached")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rounding_changes_what_is_trained_on_and_is_part_of_the_fingerprint(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    exact, rounded = tiny(), tiny("latents.dtype=bfloat16")
    shards = own(drawn_shards, tmp_path)
    one = encoded(exact, shards, tmp_path / "run")
    two = encoded(rounded, shards, tmp_path / "run")
    assert one.fingerprint != two.fingerprint
    assert two.bytes < 0.75 * one.bytes
    sample = samples(shards)["in-00-000"]
    a = Run(tmp_path / "run").store(exact).get(sample)
    b = Run(tmp_path / "run").store(rounded).get(sample)
    none = torch.arange(0), torch.tensor(0)
    x, y = a.pick(0, *none)[0], b.pick(0, *none)[0]
    assert not torch.equal(x, y)
    assert torch.equal(x.bfloat16().float(), y)


def test_a_run_on_encoded_shards_loads_no_encoder(
    drawn_shards: Path, tiny: Tiny, frozen: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Eleven gigabytes of umT5 per GPU that nobody asks anything."""
    shards = own(drawn_shards, tmp_path, "in-00-000")
    config = tiny(*frozen, "latents.use=require")
    encoded(config, shards, tmp_path / "run")
    for kind in (deferred.DeferredText, deferred.DeferredImage, deferred.DeferredVideo):
        monkeypatch.setattr(kind, "encoder", property(lambda self: pytest.fail("was loaded")))
    store = Run(tmp_path / "run").store(config)
    store.check([(samples(shards)["in-00-000"], None)])
    assert vars(store.widths) == {"latent": 16, "text": 16, "image": 768}
    assert store.empty_text.shape == (1, 16)
    assert store.get(samples(shards)["in-00-000"]).text.shape == (4, 16)


def test_an_encoder_is_named_before_it_is_loaded(tiny: Tiny, frozen: tuple[str, ...]) -> None:
    """Else encoded shards of it would be taken for another's."""
    config = tiny(*frozen)
    text, image = text_encoder(config.encoders), image_encoder(config.encoders)
    video = wan_vae(config.autoencoder)
    assert isinstance(text, deferred.DeferredText)
    assert isinstance(image, deferred.DeferredImage)
    assert isinstance(video, deferred.DeferredVideo)
    assert text.id == text.encoder.id
    assert image.id == image.encoder.id
    assert video.fingerprint == video.encoder.fingerprint
    half = tiny(*frozen, "autoencoder.precision=bfloat16").autoencoder
    other = wan_vae(half)
    assert isinstance(other, deferred.DeferredVideo)
    assert other.fingerprint == other.encoder.fingerprint != video.fingerprint


def test_latents_of_other_encoders_are_refused_and_the_difference_is_named(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = own(drawn_shards, tmp_path)
    made = encoded(tiny(), shards, tmp_path / "run")
    changed = ("encoders.text_tokens=2", "data.pad=grey", "data.augment.hue=0.2")
    refused = tiny(*changed, "latents.use=require")
    with pytest.raises(ModelError, match="made by other encoders") as error:
        train(refused, shards, tmp_path / "other", quiet)
    said = str(error.value)
    assert made.fingerprint in said
    assert "data.pad: 'grey' here, 'white' there" in said
    assert "data.augment.hue: 0.2 here, 0.1 there" in said
    assert "video: " in said, "another run's fitted autoencoder"
    assert "latents.dtype" not in said, "what is the same is not told"
    assert "s2v-model encode" in said
    # The same where the folder is named; where it is only there, one line, and they are made.
    named = tiny(*changed, f"latents.folder={made.folder}")
    with pytest.raises(ModelError, match=r"data\.pad: 'grey' here, 'white' there"):
        train(named, shards, tmp_path / "named", quiet)
    capsys.readouterr()
    store = Run(tmp_path / "other").store(tiny(*changed))
    assert isinstance(store.get(samples(shards)["in-00-000"]), Features)
    assert isinstance(store.get(samples(shards)["in-00-001"]), Features)
    assert capsys.readouterr().err.count("not used") == 1


def test_a_run_that_may_make_nothing_says_at_once_what_is_missing(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    shards = own(drawn_shards, tmp_path)
    encoded(tiny(), shards, tmp_path / "run", parts=["heldout"])
    config = tiny("latents.use=require")
    with pytest.raises(
        ModelError, match=r"cross-00-000: .*cross-000000\.tar: no such file"
    ) as error:
        train(config, shards, tmp_path / "run", quiet)
    assert "run `s2v-model encode` with this recipe" in str(error.value)
    encoded(tiny(), shards, tmp_path / "run")
    fitted = Run(tmp_path / "run").autoencoder
    more = Run(tmp_path / "more")
    more.folder.mkdir()
    more.autoencoder.write_bytes(fitted.read_bytes())
    with pytest.raises(ModelError, match=r"has 1 variants .* wanted are 3"):
        train(tiny("latents.use=require", "data.variants=3"), shards, more.folder, quiet)


def test_held_out_losses_are_the_same_from_encoded_shards(
    drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    shards = own(drawn_shards, tmp_path)
    config = tiny("train.steps=2", "data.variants=2")
    train(config, shards, tmp_path / "run", quiet)
    before = heldout(tmp_path / "run", shards, quiet)
    encoded(config, shards, tmp_path / "run")
    after = heldout(
        tmp_path / "run", shards, quiet, cache=tmp_path / "none",
        config=config.model_copy(
            update={"latents": config.latents.model_copy(update={"use": "require"})}
        ),
    )  # fmt: skip
    assert after == before
    assert not (tmp_path / "none" / "features").exists()
