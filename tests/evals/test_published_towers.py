"""ViCLIP, CLIP and DINOv2: the real adapters over small random weights on disk, pixel for pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_faces import open_clip_files

from s2v.datapipe.base.assets.extract import sha256_of
from s2v.evals.encoders import pixels
from s2v.evals.encoders.image_towers import dino_tower, dinov2_tower, open_clip_tower
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.nets.viclip import Layout, ViCLIP
from s2v.evals.encoders.production import Encoders
from s2v.evals.encoders.viclip import VideoClip
from s2v.evals.errors import EvalError
from s2v.evals.metrics import build
from s2v.evals.metrics.base import Case, MetricSpec, Peer, RefImage
from s2v.evals.metrics.video_text import VideoTextAlignment

SMALL = Layout(
    side=224, patch=112, vision_width=32, vision_layers=2, vision_heads=2,
    text_width=32, text_layers=2, text_heads=2, dim=16,
)  # fmt: skip
SPEC = MetricSpec("test", 1, "text", "t", "u", 0, 1, "higher", "c", "l", "n")


def picture(height: int = 90, width: int = 160, seed: int = 0) -> Any:
    """Noise that is redder than it is blue, so that swapped channels are seen."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return (noise * np.array([1.0, 0.6, 0.2])).astype(np.uint8)


@pytest.fixture(scope="module")
def viclip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator) * (0.3 if value.ndim < 2 else 0.2)
        for name, value in ViCLIP(SMALL).state_dict().items()
    }
    # A patch has 38 thousand pixels: as large as the others it would drown the frame's position.
    state["vision_encoder.conv1.weight"] /= 100
    path = tmp_path_factory.mktemp("viclip") / "small.pth"
    torch.save({"model": state}, path)  # the release keeps it one key down
    return path


@pytest.fixture(scope="module")
def viclip(viclip_file: Path) -> VideoClip:
    return VideoClip(viclip_file, ViCLIP(SMALL))


def test_vbenchs_pixels_are_torchvisions() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    way = transforms.InterpolationMode
    for image in (picture(), picture(130, 75), picture(300, 500)):
        chw = torch.from_numpy(image.transpose(2, 0, 1).copy())
        clip = transforms.Compose(
            [
                transforms.Resize(224, interpolation=way.BICUBIC, antialias=False),
                transforms.CenterCrop(224),
                transforms.Lambda(lambda x: x.float().div(255)),
                transforms.Normalize(*pixels.CLIP),
            ]
        )
        dino = transforms.Compose(
            [
                transforms.Resize(224, antialias=False),
                transforms.Lambda(lambda x: x.float().div(255)),
                transforms.Normalize(*pixels.IMAGENET),
            ]
        )
        for theirs, ours in ((clip, pixels.vbench_clip), (dino, pixels.vbench_dino)):
            assert torch.allclose(ours(image)[0], theirs(chw), atol=1e-5), image.shape


def test_openais_and_dinov2s_pixels_are_torchvisions_on_pillow() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    for resize, statistics in ((224, pixels.CLIP), (256, pixels.IMAGENET)):
        theirs = transforms.Compose(
            [
                transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(*statistics),
            ]
        )
        image = picture(121, 333)
        ours = pixels.pillow_square(image, resize=resize, side=224, statistics=statistics)
        assert torch.allclose(ours[0], theirs(PIL.Image.fromarray(image)), atol=1e-5)


def test_internvids_pixels_are_squashed_and_its_colours_in_order() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    image[:, :80, 0] = 255  # left half red: a squash keeps it, a middle square would not
    tensor = pixels.internvid(image)[0]
    assert tensor.shape == (3, 224, 224)
    assert tensor[0, :, :110].mean() == pytest.approx((1 - 0.485) / 0.229, abs=1e-3)
    assert tensor[0, :, 114:].mean() == pytest.approx(-0.485 / 0.229, abs=1e-3)
    assert tensor[2].mean() == pytest.approx(-0.406 / 0.225, abs=1e-3)


def test_viclip_l14_has_the_released_names_and_shapes() -> None:
    with torch.device("meta"):
        state = ViCLIP().state_dict()
    for name, shape in {
        "temp": (),
        "vision_encoder.conv1.weight": (1024, 3, 1, 14, 14),
        "vision_encoder.positional_embedding": (257, 1024),
        "vision_encoder.temporal_positional_embedding": (1, 8, 1024),
        "vision_encoder.transformer.resblocks.23.attn.in_proj_weight": (3072, 1024),
        "vision_encoder.transformer.resblocks.0.mlp.c_fc.bias": (4096,),
        "vision_encoder.proj": (1024, 768),
        "text_encoder.token_embedding.weight": (49408, 768),
        "text_encoder.positional_embedding": (32, 768),
        "text_encoder.transformer.resblocks.11.ln_2.weight": (768,),
        "text_encoder.text_projection": (768, 768),
    }.items():
        assert tuple(state[name].shape) == shape, name


def test_the_frames_order_and_every_frame_count_and_nothing_is_masked(viclip: VideoClip) -> None:
    frames = [picture(seed=i) // (i + 1) for i in range(8)]  # each darker than the one before
    first = viclip.embed_video(frames, "vbench")
    assert np.array_equal(first, viclip.embed_video(frames, "vbench"))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first, viclip.embed_video(frames[::-1], "vbench"), atol=1e-4)
    assert not np.allclose(first, viclip.embed_video([*frames[:7], frames[0]], "vbench"), atol=1e-4)
    assert not np.allclose(first, viclip.embed_video(frames, "internvid"), atol=1e-3)
    with pytest.raises(ValueError, match="7 frames"):
        viclip.embed_video(frames[:7], "vbench")


def test_attention_is_what_a_plain_loop_over_heads_gives(viclip: VideoClip) -> None:
    """The twin's token layout, written out again: a wrong permutation would show here."""
    net = viclip._net.vision_encoder
    video = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(1))
    tokens = []
    for y in range(2):
        for x in range(2):
            for t in range(8):
                patch = video[0, :, t, 112 * y : 112 * y + 112, 112 * x : 112 * x + 112]
                token = torch.einsum("chw,dchw->d", patch, net.conv1.weight[:, :, 0])
                token = token + net.positional_embedding[1 + 2 * y + x]
                tokens.append(token + net.temporal_positional_embedding[0, t])
    first = net.class_embedding + net.positional_embedding[0]
    stacked = net.ln_pre(torch.stack([first, *tokens]))[:, None]
    expected = net.ln_post(net.transformer(stacked)[0]) @ net.proj
    with torch.inference_mode():
        assert torch.allclose(net(video), expected, atol=1e-4)


def test_a_prompt_beyond_the_context_keeps_its_end_token_and_says_what_it_lost(
    viclip: VideoClip,
) -> None:
    long = "a dog " * 40
    ids = viclip._ids(long)
    assert (len(ids), ids[0], ids[-1]) == (32, 49406, 49407)
    assert viclip.tokens(long) == 82
    assert viclip._ids("a dog")[:4] == [49406, 320, 1929, 49407]
    assert set(viclip._ids("a dog")[4:]) == {0}
    tail = viclip.embed_texts([long, long + "on a red bicycle"])
    assert np.array_equal(tail[0], tail[1])
    assert not np.allclose(*viclip.embed_texts(["a dog", "a cat"]))


def case(n: int, prompt: str, seed: int = 0) -> Case:
    frames = {i: picture(seed=seed + i) for i in range(n)}
    return Case(frames, [i * 125_000 for i in range(n)], (), prompt)


def test_viclip_t_scores_against_its_own_prompt_and_the_shuffled_ones(viclip: VideoClip) -> None:
    metric = VideoTextAlignment(SPEC, lambda: viclip, "vbench")
    prompts = ("a dog", "a cat on a mat", "a red car at night")
    found = [metric.measure(case(9, p, 10 * i)) for i, p in enumerate(prompts)]
    peers = [Peer(str(i), p, m) for i, (p, m) in enumerate(zip(prompts, found, strict=True))]
    texts = viclip.embed_texts(prompts).astype(np.float64)
    for i, (measured, level) in enumerate(zip(found, metric.baselines(peers), strict=True)):
        video = measured.array("mean_frame")[0]
        assert measured.score == pytest.approx(100 * float(video @ texts[i]), abs=1e-3)
        others = [float(video @ t) for j, t in enumerate(texts) if j != i]
        assert level == pytest.approx(100 * np.mean(others), abs=1e-3)
    assert found[0].parts == {"tokens": 4.0, "tokens_lost": 0.0}


def test_short_videos_are_padded_by_vbench_and_refused_by_internvid(viclip: VideoClip) -> None:
    padded = VideoTextAlignment(SPEC, lambda: viclip, "vbench")
    assert padded.measure(case(3, "a dog")).status == "scored"
    strict = VideoTextAlignment(SPEC, lambda: viclip, "internvid")
    assert strict.measure(case(3, "a dog")).reason == "fewer_than_8_frames"
    # 20 frames: step 2, and the last five are never seen; VBench sees the middles of all.
    assert strict.plan(range(20)) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert padded.plan(range(20))[-1] == 18


@pytest.fixture(scope="module")
def dino_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random DINOv2 and DINO with the tensor names of the released files."""
    import transformers
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("dino")
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224,
    }  # fmt: skip
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "dinov2": (
            transformers.Dinov2Config(patch_size=56, **sizes), transformers.Dinov2Model, {}
        ),
        "dino": (
            transformers.ViTConfig(patch_size=56, intermediate_size=64, **sizes),
            transformers.ViTModel,
            {"add_pooling_layer": False},
        ),
    }  # fmt: skip
    released = {
        "layers.": "encoder.layer.", "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }  # fmt: skip
    for name, (config, kind, arguments) in kinds.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = kind(config, **arguments)
            for value in net.parameters():
                torch.nn.init.normal_(value, std=0.3)
        state = {}
        for key, value in net.state_dict().items():
            for new, old in released.items():
                if not (name == "dinov2" and new == "layers."):
                    key = key.replace(new, old)  # noqa: PLW2901
            if name == "dino":
                key = key.replace("mlp.fc1", "intermediate.dense")  # noqa: PLW2901
                key = key.replace("mlp.fc2", "output.dense")  # noqa: PLW2901
            state[key] = value.contiguous().clone()
        config.save_pretrained(root / name)
        save_file(state, root / name / "model.safetensors", metadata={"format": "pt"})
    return {name: root / name for name in kinds}


@pytest.fixture(scope="module")
def encoders(
    dino_folders: dict[str, Path], viclip_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Encoders:
    root = tmp_path_factory.mktemp("towers")
    config, state = open_clip_files(root)
    lines = ["[open_clip]", f'path = "{state}"', f'model = "{config.name}"',
             f'sha256 = "{sha256_of(state)}"']  # fmt: skip
    for name, folder in dino_folders.items():
        digests = ", ".join(f'"{f.name}" = "{sha256_of(f)}"' for f in sorted(folder.iterdir()))
        lines += [f"[{name}]", f'path = "{folder}"', f"sha256 = {{ {digests} }}"]
    (root / "weights.toml").write_text("\n".join(lines))
    return Encoders(Weights.read(root / "weights.toml"))


@pytest.mark.assets
def test_clip_i_and_dino_i_and_their_seg_forms_run_from_a_weights_file(encoders: Encoders) -> None:
    names = "clip-i@open_clip,dino-i@dinov2,clip-i.seg@open_clip+u2netp,dino-i.seg@dinov2+u2netp"
    image = np.full((120, 160, 3), 230, np.uint8)
    image[30:90, 50:110] = picture(60, 60)
    frames = dict.fromkeys(range(3), image)
    mask = np.zeros((120, 160), bool)
    mask[30:90, 50:110] = True
    same = Case(frames, [0, 40_000, 80_000], (RefImage(image, mask),))
    for metric in build(names, encoders):
        found = metric.measure(same)
        assert found.score is not None, metric.spec.protocol
        assert "~" in metric.spec.protocol
        if metric.spec.rate is None:
            assert found.score == pytest.approx(1.0, abs=1e-4)
        other = Case(frames, [0, 40_000, 80_000], (RefImage(picture(120, 160, 5), mask),))
        changed = metric.measure(other).score
        assert changed is not None
        assert changed < found.score


def test_dino_sees_the_whole_wide_frame_and_clip_its_middle(encoders: Encoders) -> None:
    wide = picture(64, 160)
    edge = wide.copy()
    edge[:, :16] = 0
    for tower, sees in ((encoders.dino, True), (encoders.open_clip, False)):
        a, b = tower.embed([wide, edge])
        assert (not np.allclose(a, b, atol=1e-4)) == sees, tower.id


def test_incomplete_or_foreign_weights_are_refused(
    dino_folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((dino_folders["dinov2"] / "config.json").read_bytes())
    state = load_file(dino_folders["dinov2"] / "model.safetensors")
    state.pop("layernorm.bias")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvalError, match=r"layernorm\.bias"):
        dinov2_tower(broken)
    with pytest.raises(EvalError, match="nowhere"):
        dino_tower(tmp_path / "nowhere")
    config, weights = open_clip_files(tmp_path / "clip")
    with pytest.raises(EvalError, match="name open_clip's architecture"):
        open_clip_tower(weights, None, folder=tmp_path)
    with pytest.raises(EvalError, match="no architecture 'ViT-Z'"):
        open_clip_tower(weights, "ViT-Z", folder=tmp_path)
    with pytest.raises(EvalError, match="not a state dict of CLIP"):
        open_clip_tower(weights, "ViT-B-32", folder=tmp_path)
    assert open_clip_tower(weights, config.name, folder=config.parent).embed([picture()]).shape == (
        1, 64,
    )  # fmt: skip
