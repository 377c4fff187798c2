"""The command line: one line for what the user can mend, files for what was asked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.base.settings import SettingsError
from s2v.model import config as configuration
from s2v.model.cli import main
from s2v.model.config import Config
from s2v.model.config_encoders import AutoencoderConfig, EncodersConfig
from s2v.model.encoders import image_encoder, text_encoder, wan_vae
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.train import train


@pytest.fixture(scope="module")
def run(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    train(tiny("train.steps=2", "train.checkpoint_every=2"), drawn_shards, out, quiet)
    return out


def _fails(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run to a failure; returns its single line."""
    status = main([str(a) for a in arguments])
    told = capsys.readouterr()
    assert status != 0
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return told.err


def test_wrong_input_is_one_line_with_the_way_out(
    run: Path, drawn_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_ = ["train", "--quiet", "--out", tmp_path / "out", "--shards"]
    assert "write the shards first" in _fails([*train_, tmp_path], capsys)
    unknown = _fails([*train_, drawn_shards, "--set", "train.stepz=3"], capsys)
    assert "train.stepz" in unknown
    assert "'steps'" in unknown
    assert "did you mean 'demo_tiny'" in _fails([*train_, ".", "--recipe", "demo_tini"], capsys)
    assert "4n+1" in _fails([*train_, drawn_shards, "--set", "data.frames=10"], capsys)
    assert "needs --shards and --out" in _fails(["train"], capsys)
    sample = ["sample", "--quiet", "--run", run, "--prompt", "x", "--out", tmp_path / "s"]
    text = tmp_path / "note.jpg"
    text.write_text("not an image")
    assert "note.jpg: not_media" in _fails([*sample, "--reference", text], capsys)
    assert "cannot be read" in _fails([*sample, "--reference", tmp_path / "none.png"], capsys)
    wider = _fails([*sample, "--set", "network.width=64"], capsys)
    assert "network.width: 32 -> 64" in wider
    five = [x for _ in range(5) for x in ("--reference", text)]
    assert "5 references, at most 4" in _fails([*sample, *five], capsys)
    phrases = ["--reference", text, "--phrase", "x", "--phrase", "y"]
    assert "2 phrases for 1 references" in _fails([*sample, *phrases], capsys)
    assert "'fox' is not in the prompt 'x'" in _fails(
        [*sample, "--reference", text, "--phrase", "fox"], capsys
    )
    size = _fails([*train_, drawn_shards, "--set", "data.height=50"], capsys)
    assert "data.height 50 does not divide by 16" in size
    assert "take 48 or 64" in size
    # What would otherwise be found after hours of encoding.
    zero = _fails([*train_, drawn_shards, "--set", "data.frames=101"], capsys)
    assert f"{drawn_shards}: no sample for train among 18: 13 clip shorter" in zero
    assert "fewer data.frames (or in data.sizes) or a higher data.fps would let some in" in zero
    later = "data.phases=[{ from_step = 9, sizes = [[101, 48, 80]] }]"
    tiny = ["--set", "data.frames=9", "--set", "data.height=48", "--set", "data.width=80"]
    phase = _fails([*train_, drawn_shards, *tiny, "--set", later], capsys)
    assert "in phase 1, the shards have [] in its sizes; change the mix or the sizes" in phase
    heads = _fails([*train_, drawn_shards, "--set", "parallel.cp=3"], capsys)
    assert "parallel.cp 3 does not divide network.heads 4; take one of 1, 2, 4" in heads
    start = _fails([*train_, drawn_shards, "--set", "train.start_from=none.pth"], capsys)
    assert "train.start_from: none.pth: no such file or folder" in start
    assert "not a run folder" in _fails(["heldout", "--run", ".", "--shards", "."], capsys)
    pickled = tmp_path / "model.pth"
    pickled.write_bytes(b"\x80\x04")
    assert "pickle, which is not opened" in _fails(["inspect", pickled], capsys)
    assert "no such file" in _fails(["inspect", tmp_path / "nothing"], capsys)


def test_a_sample_carries_its_references_and_its_provenance(
    run: Path, reference_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(out: str, *more: str) -> dict[str, object]:
        command = ["sample", "--quiet", "--json", "--run", str(run), "--prompt", "a shape moves"]
        command += ["--reference", str(reference_file), "--out", str(tmp_path / out), *more]
        assert main(command) == 0
        made: dict[str, object] = json.loads(capsys.readouterr().out)
        return made

    made = make("a", "--seed", "3")
    frames = [rgb for _, rgb in scan(str(made["video"]), short_side=48)]
    assert np.stack(frames).shape == (9, 48, 80, 3)
    facts = json.loads(Path(str(made["provenance"])).read_text())
    assert facts["generated"] is True
    assert facts["seed"] == 3
    assert facts["prompt"] == "a shape moves"
    pixels = hashlib.sha256(load_image(reference_file).tobytes()).hexdigest()
    assert facts["references"][0]["rgb_sha256"] == pixels
    assert not any("url" in key for key in facts["sampler"])  # where a server stands is no fact
    assert facts["model"]["step"] == 2
    assert facts["sampler"]["image_scale"] == 3.0
    # The video says the same of itself, and is the one it speaks of.
    assert main(["verify", "--json", str(made["video"])]) == 0
    inside = json.loads(capsys.readouterr().out)
    for key in ("prompt", "seed", "references", "model", "sampler", "frames_sha256"):
        assert inside[key] == facts[key]
    sheet = np.asarray(Image.open(str(made["sheet"])))
    assert sheet.shape[0] == 48
    assert sheet.shape[1] > 7 * 80  # the reference and six frames
    assert (sheet[:, :15] == 255).all()  # as the network saw it: padded with white
    again = make("b", "--seed", "3")
    assert Path(str(again["video"])).read_bytes() == Path(str(made["video"])).read_bytes()
    other = make("c", "--seed", "4", "--set", "sample.image_scale=1")
    assert Path(str(other["video"])).read_bytes() != Path(str(made["video"])).read_bytes()
    marked = make("d", "--seed", "3", "--preset", "release", "--set", "sample.steps=2",
                  "--set", "sample.mark=AI", "--phrase", "a shape")  # fmt: skip
    facts = json.loads(Path(str(marked["provenance"])).read_text())
    assert (facts["mark"], facts["phrases"]) == ("AI", ["a shape"])
    sampler = facts["sampler"]
    assert (sampler["solver"], sampler["steps"], sampler["image_scale"]) == ("unipc", 2, 5.0)


def test_the_same_frames_give_the_same_file_whatever_is_in_memory(tmp_path: Path) -> None:
    """MALLOC_PERTURB_ fills fresh memory with a byte: what reads it unset gives itself away."""
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from s2v.model.output import write_mp4\n"
        "random = np.random.default_rng(0)\n"
        "y, x = np.mgrid[:48, :80]\n"
        "ramp = [[(x * 2 + y + 7 * i + 40 * c) % 200 for c in range(3)] for i in range(9)]\n"
        "video = np.array(ramp).transpose(0, 2, 3, 1) + random.integers(0, 20, (9, 48, 80, 3))\n"
        "write_mp4(Path(sys.argv[1]), video.astype(np.uint8), 8.0)\n"
    )
    made = []
    for fill in ("0", "1", "33"):
        path = tmp_path / f"{fill}.mp4"
        environment = {**os.environ, "MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=environment)
        made.append(path.read_bytes())
    assert made[0] == made[1] == made[2]


def test_without_a_reference_it_still_samples(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--quiet", "--run", str(run), "--prompt", "x", "--out", str(tmp_path)]
    assert main(command) == 0
    assert (tmp_path / "sample.mp4").stat().st_size > 500
    assert "sample.mp4" in capsys.readouterr().out


def test_heldout_and_inspect_print_what_is_there(
    run: Path, drawn_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["heldout", "--quiet", "--json", "--run", str(run), "--shards", str(drawn_shards)]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 4
    kinds = {}
    newest = run / "checkpoints" / "step-00000002"
    for path in (
        run,
        newest,
        newest / "ema" / "rank-00000.safetensors",
        run / "autoencoder.safetensors",
    ):
        assert main(["inspect", "--json", str(path)]) == 0
        kinds[path.name] = json.loads(capsys.readouterr().out)
    assert kinds["run"]["kind"] == "run"
    assert kinds["step-00000002"]["parameters"] == kinds["rank-00000.safetensors"]["parameters"]
    assert kinds["rank-00000.safetensors"]["widths"] == {"latent": 16, "text": 64, "image": 12}
    assert kinds["autoencoder.safetensors"]["kind"] == "s2v-linear-autoencoder-1"


def test_every_recipe_is_valid_and_prints_as_what_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"demo_tiny", "phantom_mmdit_1b"} <= set(configuration.recipes())
    for name in configuration.recipes():
        assert main(["train", "--recipe", name, "--print-config"]) == 0
        path = tmp_path / f"{name}.toml"
        path.write_text(capsys.readouterr().out)
        assert configuration.load(path) == configuration.load(name)
    paper = configuration.load("phantom_mmdit_1b")
    assert (paper.network.window, paper.dropout.vae, paper.sample.steps) == (9, 0.7, 50)
    assert (paper.sample.image_scale, paper.sample.text_scale) == (3.0, 7.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.heads=3", "does not divide into 3 heads"),
        ("network.attention=windows", "network.attention"),
        ("dropout.both=1.5", "dropout.both"),
        ("network.patch=[2, 2, 2]", "single latent frames"),
        ("data.mix={ inn = 1.0 }", "data.mix"),
        ("data.width=100", "data.width 100 does not divide by 16"),
        ("network.subject_ids=2", "does not cover data.max_references 4"),
        ("flow.mode_scale=2", "flow.mode_scale"),
        ("steps=3", "steps"),
    ],
)
def test_values_out_of_range_name_their_key(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        configuration.load("demo_tiny", [override])


def test_weights_that_are_not_there_are_asked_for_by_their_key(tmp_path: Path) -> None:
    none = str(tmp_path / "none.pth")
    with pytest.raises(ModelError, match=r"none\.pth: .*encoders\.text_weights and .*tokenizer"):
        text_encoder(EncodersConfig(text="umt5", text_weights=none, text_tokenizer="none"))
    with pytest.raises(ModelError, match=r"none\.pth: .* for encoders\.image_weights to say"):
        image_encoder(EncodersConfig(image="clip", image_weights=none))
    with pytest.raises(ModelError, match=r"none\.pth: .* for autoencoder\.weights to say"):
        wan_vae(AutoencoderConfig(kind="wan", weights=none))


def test_it_imports_on_a_bare_gpu_machine() -> None:
    """Without Ray, insightface, decord and the other libraries of the curation extra."""
    script = (
        "import sys\n"
        "for name in ('ray', 'insightface', 'decord', 'spacy', 'faiss', 'transformers',\n"
        "             'open_clip', 'webdataset', 'torchvision', 'scenedetect'):\n"
        "    sys.modules[name] = None\n"
        "import pkgutil, importlib, s2v.model\n"
        "for found in pkgutil.walk_packages(s2v.model.__path__, 's2v.model.'):\n"
        "    importlib.import_module(found.name)\n"
        "rooms = {m.split('.')[2] for m in sys.modules if m.startswith('s2v.datapipe.')}\n"
        "assert rooms == {'base'}, rooms\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
