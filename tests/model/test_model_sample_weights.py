"""`s2v-model sample --weights`: Phantom-Wan's files, two pictures and a prompt to a video.

The files are small and random, in the layouts that users have. What must come out is made beside
it from the same files by the release's steps around diffusers' and transformers' own classes.
"""

from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from s2v.model import config as configuration
from s2v.model import provenance
from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.cli import main
from s2v.model.progress import quiet
from s2v.model.rng import normal
from s2v.model.sample_source import of_weights
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig
from s2v.model.wan_encoders import Umt5Text

H, W, FRAMES, STEPS, SEED = 32, 48, 5, 4, 3
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "runs", "bad"]
PROMPT, NEGATIVE = "a red fox runs", "bad bad"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network, autoencoder, umT5, its tokenizer, and two pictures of other aspects."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = WanModel(WanConfig(width=24, heads=2, layers=2, ffn=40, text_width=20))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(
                (1 + 0.1 * torch.randn_like(p)) if "norm" in name else 0.2 * torch.randn_like(p)
            )
    torch.save(model.state_dict(), folder / "Phantom-Wan-tiny.pth")
    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    vae.save_pretrained(folder / "vae")
    UMT5EncoderModel(
        UMT5Config(vocab_size=8, d_model=20, d_kv=5, d_ff=24, num_layers=2, num_heads=4)
    ).save_pretrained(folder / "umt5")
    special = dict(zip(("pad_token", "eos_token", "unk_token"), WORDS, strict=False))
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, WORDS[2]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder / "tokenizer")
    random = np.random.default_rng(0)
    for name, size in (("one", (40, 70, 3)), ("two", (61, 33, 3))):
        Image.fromarray(random.integers(0, 255, size, np.uint8)).save(folder / f"{name}.png")
    return {p.name: p for p in folder.iterdir()}


def test_wans_folder_is_enough(files: dict[str, Path], tmp_path: Path) -> None:
    """The same video from the folder as from each place said."""
    folder = tmp_path / "it's Wan2.1"  # a name that TOML would trip over
    (folder / "google").mkdir(parents=True)
    for name, place in (
        ("vae", "vae"), ("umt5", "text_encoder"), ("tokenizer", "tokenizer"),
    ):  # fmt: skip
        (folder / place).symlink_to(files[name])
    places = ("autoencoder.weights", "encoders.text_weights", "encoders.text_tokenizer")
    said = _command(files, tmp_path / "a")
    bare = _command(files, tmp_path / "b", "--wan", str(folder))
    for place in places:
        at = next(i for i, x in enumerate(bare) if x.startswith(place))
        del bare[at - 1 : at + 1]
    assert main(said) == main(bare) == 0
    made = [(tmp_path / x / "sample.mp4").read_bytes() for x in ("a", "b")]
    assert made[0] == made[1]


def _sets(files: dict[str, Path], *more: str) -> list[str]:
    return [
        "wan.width=24", "wan.heads=2", f"autoencoder.weights={files['vae']}",
        f"encoders.text_weights={files['umt5']}", f"encoders.text_tokenizer={files['tokenizer']}",
        "encoders.precision=float32", f"data.height={H}", f"data.width={W}",
        f"data.frames={FRAMES}", f"sample.steps={STEPS}", f"sample.negative_prompt={NEGATIVE}",
        "sample.precision=float32", "train.device=cpu", *more,
    ]  # fmt: skip


def _command(files: dict[str, Path], out: Path, *more: str) -> list[str]:
    made = [
        "sample",
        "--quiet",
        "--weights",
        str(files["Phantom-Wan-tiny.pth"]),
        "--prompt",
        PROMPT,
    ]
    made += ["--out", str(out), "--seed", str(SEED)]
    for one in _sets(files):
        made += ["--set", one]
    return [*made, *more]


def _padded(path: Path) -> Image.Image:
    """As the release's ``load_ref_images``."""
    img = Image.open(path).convert("RGB")
    ratio = img.width / img.height
    size = (W, int(W / ratio)) if ratio > W / H else (int(H * ratio), H)
    img = img.resize(size, Image.Resampling.LANCZOS)
    dw, dh = W - img.size[0], H - img.size[1]
    return ImageOps.expand(
        img, (dw // 2, dh // 2, dw - dw // 2, dh - dh // 2), fill=(255, 255, 255)
    )


@torch.no_grad()
def _release(files: dict[str, Path], pictures: list[Path]) -> np.ndarray:
    from diffusers import AutoencoderKLWan
    from transformers import AutoTokenizer, UMT5EncoderModel

    vae = AutoencoderKLWan.from_pretrained(files["vae"])
    umt5 = UMT5EncoderModel.from_pretrained(files["umt5"])
    tokenizer = AutoTokenizer.from_pretrained(files["tokenizer"])
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=20, ffn_dim=40, num_layers=2
    ).eval()
    state = torch.load(files["Phantom-Wan-tiny.pth"], weights_only=True)
    net.load_state_dict({str(WAN_DIFFUSERS.there(k)): v for k, v in state.items()})
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)

    def context(text: str) -> Tensor:
        asked = tokenizer(
            text, padding="max_length", max_length=512, truncation=True, return_tensors="pt"
        )
        words = umt5(asked.input_ids, asked.attention_mask).last_hidden_state
        words[:, int(asked.attention_mask.sum()) :] = 0
        return words

    coded = []
    for path in pictures:
        x = torch.from_numpy(np.asarray(_padded(path)).copy()).permute(2, 0, 1).float()
        x = x.div(255).sub(0.5).div(0.5)[None, :, None]
        coded.append((vae.encode(x).latent_dist.mode() - mean) / std)
    frames = (FRAMES - 1) // 4 + 1
    z = normal((16, frames, H // 8, W // 8), SEED, "sample")[None]
    n = len(coded)
    ref = torch.cat(coded, dim=2) if coded else z[:, :, :0]
    latents = torch.cat([z, torch.randn_like(ref)], dim=2)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    u = np.linspace(0.999, 0, STEPS + 1)
    levels = 5 * u / (1 + 4 * u)
    scheduler.set_timesteps(sigmas=levels[:-1].copy())
    c, c_null = context(PROMPT), context(NEGATIVE)
    for i, level in enumerate(levels[:-1]):
        t = torch.tensor([int(1000 * level)])
        head = latents[:, :, :frames]
        it, im, neg = (
            net(torch.cat([head, r], dim=2), t, w, return_dict=False)[0]
            for r, w in ((ref, c), (ref, c_null), (torch.zeros_like(ref), c_null))
        )
        pred = neg + 5.0 * (im - neg) + 7.5 * (it - im)
        latents = scheduler.step(pred, scheduler.timesteps[i], latents, return_dict=False)[0]
    x0 = latents[:, :, : latents.shape[2] - n] * std + mean
    video = (vae.decode(x0).sample[0].clamp(-1, 1) + 1) / 2 * 255
    return video.permute(1, 2, 3, 0).round().byte().numpy()


@pytest.mark.parametrize("names", [(), ("one",), ("two", "one")])
def test_released_files_give_the_releases_video(
    files: dict[str, Path],
    names: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames: list[np.ndarray] = []
    write = provenance.write_video

    def kept(path: Path, video: np.ndarray, fps: float, record: dict[str, Any]) -> Any:
        frames.append(video)
        return write(path, video, fps, record)

    monkeypatch.setattr(provenance, "write_video", kept)
    pictures = [files[f"{name}.png"] for name in names]
    references = [x for path in pictures for x in ("--reference", str(path))]
    assert main(_command(files, tmp_path, "--json", *references)) == 0
    made = json.loads(capsys.readouterr().out)
    expected = _release(files, pictures)
    assert frames[0].shape == expected.shape == (FRAMES, H, W, 3)
    apart = np.abs(frames[0].astype(int) - expected.astype(int))
    assert apart.max() <= 1
    assert expected.std() > 5  # not a grey plane, which would be equal to anything
    # And the video says which weights made it.
    assert main(["verify", "--json", made["video"]]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    weights = files["Phantom-Wan-tiny.pth"]
    assert model["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert model["files"] == {weights.name: model["sha256"]}
    assert "Phantom-Wan" in model["name"]


def test_the_text_encoder_is_gone_before_the_network_computes(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """umT5 has 11 GB: with it a card of 24 GB would be full before the first step."""
    seen: list[int] = []
    forward = WanModel.forward

    def spied(self: WanModel, *args: Any, **kwargs: Any) -> Any:
        seen.append(sum(isinstance(thing, Umt5Text) for thing in gc.get_objects()))
        return forward(self, *args, **kwargs)

    gc.collect()
    before = sum(isinstance(thing, Umt5Text) for thing in gc.get_objects())
    monkeypatch.setattr(WanModel, "forward", spied)
    assert main(_command(files, tmp_path)) == 0
    assert seen == [before] * len(seen) != []


def test_a_prompt_that_is_read_in_part_is_said_to_be(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--set", "encoders.text_tokens=4")
    assert main(_command(files, tmp_path, *few)) == 0
    assert "5 tokens, the network reads the first 4" in capsys.readouterr().err
    assert main(_command(files, tmp_path)) == 0
    assert "tokens" not in capsys.readouterr().err


def test_half_precision_keeps_the_time_vector_and_the_picture(
    files: dict[str, Path], tmp_path: Path
) -> None:
    config = configuration.load("phantom_wan_1_3b_480p", _sets(files, "sample.precision=bfloat16"))
    model = of_weights(files["Phantom-Wan-tiny.pth"], config, quiet).model
    kinds = {n: p.dtype for n, p in model.named_parameters()}
    wide = {n for n, kind in kinds.items() if kind == torch.float32}
    assert wide == {n for n in kinds if n.startswith("time_") or n.endswith("modulation")}
    assert kinds["blocks.0.self_attn.q.weight"] == torch.bfloat16
    assert main(_command(files, tmp_path, "--set", "sample.precision=bfloat16")) == 0
    record = provenance.verify(tmp_path / "sample.mp4").record
    assert record["sampler"]["precision"] == "bfloat16"


def test_what_a_file_says_of_its_references_is_kept(files: dict[str, Path], tmp_path: Path) -> None:
    """Weights trained with clean references are not sampled as the recipe would have it."""
    config = configuration.load("phantom_wan_1_3b_480p", _sets(files))
    path = tmp_path / "ours.safetensors"
    told = WanConfig(
        width=24, heads=2, layers=2, ffn=40, text_width=20, reference_timestep="zero",
        reference_position="offset", reference_offset=7,
    )  # fmt: skip
    about = {"format": "s2v-mmdit-1", "network": {"kind": "wan", **told.model_dump(mode="json")}}
    state = torch.load(files["Phantom-Wan-tiny.pth"], weights_only=True)
    save_file(state, path, metadata={"s2v": json.dumps(about)})
    made = of_weights(path, config, quiet)
    assert made.config.wan == told
    assert isinstance(made.model, WanModel)
    assert made.model.config == told
    plain = of_weights(files["Phantom-Wan-tiny.pth"], config, quiet)
    assert plain.config.wan.reference_timestep == "same"
    assert plain.config.wan.rope_precision == "float32"  # the recipe's: Phantom's


def test_what_cannot_be_sampled_is_one_line_with_the_way_out(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*more: str, weights: Path | None = None) -> str:
        command = _command(files, tmp_path / "out", *more)
        if weights is not None:
            command[command.index("--weights") + 1] = str(weights)
        assert main(command) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    assert "use --recipe phantom_wan_1_3b_480p" in told("--recipe", "demo_tiny")
    assert "set autoencoder.kind = 'wan'" in told("--set", "autoencoder.kind=linear")
    assert "not a Wan2.1 or Phantom-Wan network" in told(weights=files["vae"])
    assert "no such file or folder" in told(weights=tmp_path / "none.pth")
    wide = WanModel(WanConfig(width=24, heads=2, layers=1, ffn=40, text_width=20, in_channels=36))
    torch.save(wide.state_dict(), tmp_path / "i2v.pth")
    assert "takes 36 latent channels" in told(weights=tmp_path / "i2v.pth")
    other = WanModel(WanConfig(width=24, heads=2, layers=1, ffn=40, text_width=24))
    torch.save(other.state_dict(), tmp_path / "text.pth")
    assert "takes text features 24 wide, those of encoders.text are 20" in told(
        weights=tmp_path / "text.pth"
    )
    for key in ("encoders.text_weights", "encoders.text_tokenizer", "autoencoder.weights"):
        assert f"{key} {tmp_path / 'none'}: no such" in told("--set", f"{key}={tmp_path / 'none'}")
    assert "no tokenizer of transformers" in told(
        "--set", f"encoders.text_tokenizer={files['vae']}"
    )
    assert "does not divide by 16" in told("--set", "data.height=40")
    assert "4n+1" in told("--set", "data.frames=80")
    assert "Wan2.1_VAE.pth" in told("--wan", str(tmp_path))
    assert "no such folder" in told("--wan", str(tmp_path / "none"))
    assert "20001 characters" in told("--prompt", "x" * 20_001)
    assert "not text in UTF-8" in told("--prompt", "a \udcff fox")
    assert "not a file" in told("--reference", str(tmp_path))
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    assert "cannot be written" in told("--out", str(blocked))
    assert not list((tmp_path / "out").glob("*"))
