"""GmeScore with the real Qwen2-VL of transformers over a small random release on disk.

The vectors are held against the library's own forward pass, and against what it would give in
another way: with its positions of rows and columns, at other sizes, with other words around.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_vlm import build_tiny_vlm

from s2v.datapipe.base.assets.extract import sha256_of
from s2v.evals.cli import main
from s2v.evals.encoders import gme as gme_module
from s2v.evals.encoders.gme import Gme, chat, fitted, resized
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.metrics import build, protocols
from s2v.evals.metrics.base import Case, Peer
from s2v.evals.run import evaluate

PROTOCOL = "gme-score@gme-qwen2-vl.opens2v"
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])


def picture(height: int = 60, width: int = 100, seed: int = 0) -> Any:
    """Noise that is redder than it is blue, so that swapped channels are seen."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3))
    big = np.kron(noise, np.ones((4, 4, 1)))
    return (big * np.array([1.0, 0.6, 0.2])).astype(np.uint8)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is released, tensors under the released names, nothing at its first value."""
    from safetensors.torch import load_file, save_file

    folder = build_tiny_vlm(tmp_path_factory.mktemp("gme") / "tiny-gme")
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in load_file(folder / "model.safetensors").items():
        # The weights are kept as they are made; norms and biases get values of their own.
        if value.ndim == 1:
            noise = torch.randn(value.shape, generator=generator) * 0.2
            value = value + noise  # noqa: PLW2901
        old = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        state[old] = value.contiguous()
    assert {n.split(".")[0] for n in state} == {"visual", "model", "lm_head"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def stated(folder: Path) -> dict[str, str]:
    return {f.name: sha256_of(f) for f in sorted(folder.iterdir()) if f.is_file()}


@pytest.fixture(scope="module")
def encoder(release: Path) -> Gme:
    return Gme(release, stated(release))


@pytest.fixture(scope="module")
def library(release: Path) -> tuple[Any, Any]:
    """transformers' own model and tokenizer over the same files."""
    import transformers

    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        str(release), local_files_only=True, dtype=torch.float32
    )
    return model.model.eval(), transformers.AutoTokenizer.from_pretrained(str(release))


def patches_of(image: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels as the network takes them, cut by hand: 2 x 2 neighbours first, two equal moments."""
    values = (np.asarray(resized(image), np.float64) / 255 - MEAN) / DEVIATION
    rows, columns = values.shape[0] // 14, values.shape[1] // 14
    cut = []
    for y in range(0, rows, 2):
        for x in range(0, columns, 2):
            for i in (y, y + 1):
                for j in (x, x + 1):
                    one = values[14 * i : 14 * i + 14, 14 * j : 14 * j + 14].transpose(2, 0, 1)
                    cut.append(np.repeat(one[:, None], 2, axis=1).reshape(-1))
    return torch.tensor(np.array(cut)).float(), torch.tensor([[1, rows, columns]])


def by_library(library: tuple[Any, Any], text: str, image: Any = None, *, own: bool = False) -> Any:
    """The last token's state from the library's whole forward pass, with positions given.

    Args:
        library: model and tokenizer.
        text: the conversation.
        image: shown in it.
        own: let the library count rows and columns of the picture.
    """
    model, tokenizer = library
    inputs: dict[str, Any] = {}
    if image is not None:
        pixels, grid = patches_of(image)
        inputs = {"pixel_values": pixels, "image_grid_thw": grid}
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (len(pixels) // 4))
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    if image is not None:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    if not own:
        inputs["position_ids"] = torch.arange(ids.shape[1])[None, None].expand(3, 1, -1)
    with torch.inference_mode():
        state = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
    last = state.last_hidden_state[0, -1].numpy()
    return last / np.linalg.norm(last)


def test_a_text_is_embedded_by_the_last_token_of_the_published_conversation(
    encoder: Gme, library: tuple[Any, Any]
) -> None:
    words = "a red dog runs"
    conversation = (
        "<|im_start|>system\nFind an image that matches the given text.<|im_end|>\n"
        "<|im_start|>user\na red dog runs<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    )
    (vector,) = encoder.embed_texts([words])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.allclose(vector, by_library(library, conversation), atol=1e-5)
    other = by_library(library, chat("You are a helpful assistant.", words))
    assert not np.allclose(vector, other, atol=1e-2)


def test_a_picture_is_embedded_by_positions_counted_one_by_one_not_by_rows_and_columns(
    encoder: Gme, library: tuple[Any, Any]
) -> None:
    image = picture()
    conversation = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
        "<|endoftext|>"
    )
    (vector,) = encoder.embed_images([image])
    assert np.allclose(vector, by_library(library, conversation, image), atol=1e-4)
    own = by_library(library, conversation, image, own=True)
    assert not np.allclose(vector, own, atol=1e-3)
    swapped, still = encoder.embed_images([image[..., ::-1].copy(), image])
    assert np.array_equal(still, vector)
    assert not np.allclose(swapped, vector, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "first", "second"),
    [
        ((480, 832), (476, 840), (476, 840)),  # what Wan and Phantom make
        ((720, 1280), (728, 1288), (728, 1288)),
        ((1080, 1920), (1092, 1932), (728, 1316)),  # more than 1280 tokens
        ((90, 160), (84, 168), (336, 644)),  # fewer than 256
        ((5, 5), (56, 56), (448, 448)),
    ],
)
def test_pictures_are_resized_twice_to_whole_tokens_within_the_published_bounds(
    size: tuple[int, int], first: tuple[int, int], second: tuple[int, int]
) -> None:
    assert fitted(*size, gme_module.FIRST) == first
    assert fitted(*first, gme_module.SECOND) == second
    tokens = second[0] * second[1] // 28**2
    assert 256 <= tokens <= 1280
    assert resized(np.zeros((*size, 3), np.uint8)).size == second[::-1]


def test_sizes_are_the_librarys_own_for_every_picture_that_is_not_a_sliver() -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    rng = np.random.default_rng(0)
    for height, width in rng.integers(14, 2000, (200, 2)).tolist():
        for bounds in (gme_module.FIRST, gme_module.SECOND):
            theirs = module.smart_resize(
                height, width, 28, min_pixels=bounds[0] * 784, max_pixels=bounds[1] * 784
            )
            assert fitted(height, width, bounds) == theirs, (height, width)


def test_resizing_and_normalising_are_the_librarys_own(encoder: Gme) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    image = picture(88, 132)
    once = PIL.Image.fromarray(image).resize(fitted(88, 132, gme_module.FIRST)[::-1])
    theirs = module.Qwen2VLImageProcessorPil(min_pixels=256 * 784, max_pixels=1280 * 784)(
        images=[once], return_tensors="pt"
    )
    ours = encoder._pixels(images=[resized(image)], return_tensors="pt")
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    assert torch.allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)
    by_hand, grid = patches_of(image)
    assert torch.equal(ours["image_grid_thw"], grid)
    assert torch.allclose(ours["pixel_values"], by_hand, atol=1e-5)


def test_what_lies_behind_1800_tokens_is_not_read(encoder: Gme) -> None:
    long = "a dog " * 400
    assert encoder._ids(chat(gme_module.OF_TEXT, long)).shape == (1, 1800)
    same, tail = encoder.embed_texts([long, long + "on a red bicycle"])
    assert np.array_equal(same, tail)


def test_every_tensor_comes_from_the_folder_and_every_file_was_checked(
    release: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    def changed(name: str, change: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in release.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        state = load_file(release / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    less = changed("less", lambda s: s.pop("visual.merger.mlp.2.bias"))
    more = changed("more", lambda s: s.update({"visual.extra": torch.zeros(3)}))
    for folder, message in ((less, r"merger\.mlp\.2\.bias"), (more, "extra")):
        with pytest.raises(EvalError, match=message):
            Gme(folder, stated(folder))
    files = stated(release)
    del files["tokenizer.json"]
    with pytest.raises(EvalError, match=r"state the sha256 of tokenizer\.json, too"):
        Gme(release, files)
    (less / "tokenizer.json").write_text("{}")
    with pytest.raises(EvalError):
        Gme(less, stated(less))


@pytest.fixture(scope="module")
def weights(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    digests = ", ".join(f'"{name}" = "{sha}"' for name, sha in stated(release).items())
    file = tmp_path_factory.mktemp("weights") / "weights.toml"
    file.write_text(f'[gme]\npath = "{release}"\nsha256 = {{ {digests} }}\n')
    return file


def case(n: int, prompt: str, seed: int) -> Case:
    frames = {i: picture(seed=seed + i) for i in range(n)}
    return Case(frames, [i * 125_000 for i in range(n)], (), prompt)


def test_gme_score_is_the_mean_cosine_over_32_frames_beside_its_chance_level(
    weights: Path, encoder: Gme
) -> None:
    (metric,) = build(PROTOCOL, Encoders(Weights.read(weights)))
    assert metric.spec.protocol.startswith(f"{PROTOCOL}~")
    assert metric.plan(range(100))[:3] == [0, 3, 6]
    assert len(metric.plan(range(100))) == 32
    prompts = ("a dog", "a cat on a mat")
    cases = [case(3, prompt, 10 * i) for i, prompt in enumerate(prompts)]
    found = [metric.measure(one) for one in cases]
    texts = encoder.embed_texts(prompts).astype(np.float64)
    peers = [Peer(str(i), p, m) for i, (p, m) in enumerate(zip(prompts, found, strict=True))]
    for i, (one, level) in enumerate(zip(cases, metric.baselines(peers), strict=True)):
        frames = encoder.embed_images(list(one.frames.values())).astype(np.float64)
        assert found[i].score == pytest.approx(float((frames @ texts[i]).mean()), abs=2e-6)
        assert level == pytest.approx(float((frames @ texts[1 - i]).mean()), abs=2e-5)
    assert "gme" not in "".join(protocols("published"))
    assert PROTOCOL in protocols("opens2v")


def test_a_run_with_gme_brings_its_part_into_the_total(
    study: Any, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.lines[:] = study.lines[:1]
    out = tmp_path / "o"
    evaluate(study.save(), out, PROTOCOL, progress=False, replicates=50, report=False,
             encoders=Encoders(Weights.read(weights)))  # fmt: skip
    mean = json.loads((out / "summary.json").read_text())["results"][0]["mean"]
    timed = json.loads((out / "timings.json").read_text())["encoders"]["gme"]
    assert timed["calls"] == 2  # the frames, and the prompt
    assert main(["total", str(out), "--json"]) == 1
    part = json.loads(capsys.readouterr().out)["parts"]["GmeScore"]
    assert part["zeros"] == pytest.approx(max(0.0, mean), abs=1e-6)
    assert part["from"].startswith(f"{PROTOCOL}~")
