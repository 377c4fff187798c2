"""The demo goes on where it was, and makes again what is gone or was made of something else."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import pytest
from demo import Done, model_files, model_folder, plainly, sample_files

from s2v.datapipe.base.shards import Sample
from s2v.evals.errors import EvalError
from s2v.model import config
from s2v.model.errors import Interrupted, ModelError
from s2v.model.run import Run


class Step:
    """Writes a file and counts how often it was asked to."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        self.file.write_text("made")
        return {"file": str(self.file)}


def files(result: dict[str, Any]) -> list[Path]:
    return [Path(result["file"])]


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    step = Step(tmp_path / "out")
    for _ in range(2):  # as two starts of the program
        done = Done(tmp_path / "done", ["shards"])
        assert done.once("train", step, files) == {"file": str(step.file)}
    assert step.times == 1


def test_a_step_whose_files_were_deleted_is_done_again(tmp_path: Path) -> None:
    step = Step(tmp_path / "out")
    done = Done(tmp_path / "done", ["shards"])
    done.once("report", step, files)
    step.file.unlink()
    done.once("report", step, files)
    assert step.times == 2
    assert step.file.is_file()


@pytest.mark.parametrize(
    ("depends", "extra"), [(["other shards"], ["pairs"]), (["shards"], ["other pairs"])]
)
def test_a_step_whose_inputs_changed_is_done_again(
    tmp_path: Path, depends: list[str], extra: list[str]
) -> None:
    step = Step(tmp_path / "out")
    Done(tmp_path / "done", ["shards"]).once("report", step, files, ["pairs"])
    Done(tmp_path / "done", depends).once("report", step, files, extra)
    assert step.times == 2


def test_a_training_counts_as_done_only_with_every_file_that_is_read_later(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "step-00000400"
    found = model_files({"run": str(tmp_path), "checkpoint": str(last)})
    run = Run(tmp_path)
    assert {run.autoencoder, run.metrics, last / "ema" / "rank-00000.safetensors"} <= set(found)


def test_samples_count_as_done_only_with_their_videos_and_references() -> None:
    one = {"video": "v.mp4", "real": "r.mp4", "references": ["0.png", "1.png"]}
    found = sample_files({"samples": [one]})
    assert [str(path) for path in found] == ["v.mp4", "r.mp4", "0.png", "1.png"]


def test_another_recipe_or_other_shards_train_afresh_beside_the_old_model(tmp_path: Path) -> None:
    recipe = config.load("demo_tiny")
    first = model_folder(tmp_path, recipe, "index")
    Run(first).begin(recipe)
    others = [
        (config.load("demo_tiny", ["train.steps=6000"]), "index"),
        (config.load("demo_tiny", ["optim.lr=0.0001"]), "index"),
        (recipe, "index of other shards"),
    ]
    folders = {model_folder(tmp_path, *other) for other in others}
    assert len(folders | {first}) == 4
    for (other, _), folder in zip(others, sorted(folders), strict=True):
        Run(folder).begin(other)  # a folder of another recipe would be refused
    assert Run(first).config() == recipe
    assert model_folder(tmp_path, config.load("demo_tiny"), "index") == first


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ModelError("m: no checkpoint\nyet"), 1, "demo: m: no checkpoint yet"),
        (EvalError("manifest.jsonl: empty"), 1, "demo: manifest.jsonl: empty"),
        (Interrupted(7, signal.SIGTERM), 143, "run the same command again"),
        (Interrupted(7, signal.SIGINT), 130, "after step 7"),
        (KeyboardInterrupt(), 130, "run the same command again"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, words: str
) -> None:
    assert plainly("demo", raising(error)) == status
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("demo: ")
    assert said.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        plainly("demo", raising(ZeroDivisionError()))


def test_evaluating_shards_that_are_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run", str(tmp_path), "--shards", str(tmp_path / "no"), "--out", str(tmp_path)]
    assert evaluate.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"evaluate: {tmp_path / 'no'}")
    assert said.count("\n") == 1


def test_two_clips_with_one_caption_and_one_reference_are_sampled_once() -> None:
    def one(name: str, clip: str, caption: str, reference: str) -> Sample:
        video = {"suffix": "mp4", "sha256": name}
        picture = {"suffix": "ref0.jpg", "sha256": reference}
        row = {"sample_id": name, "clip_id": clip, "caption": caption, "members": [video, picture]}
        return Sample(Path(), row)

    samples = [
        one("a", "first", "a grey animal", "r"),
        one("b", "second", "a grey animal", "r"),  # the next clip of the same shot
        one("c", "third", "a grey animal", "another"),
        one("d", "fourth", "a brown animal", "r"),
        one("e", "first", "a grey animal", "third"),
    ]
    assert [sample.id for sample in evaluate.distinct(samples)] == ["a", "c", "d"]


def test_a_network_is_asked_with_references_as_it_was_trained_on_them(tmp_path: Path) -> None:
    Run(tmp_path / "demo").begin(config.load("demo_tiny"))
    assert evaluate.trained_form(tmp_path / "demo") == "crop"
    both = config.load("demo_tiny", ["data.forms={ crop = 1.0, white = 1.0 }"])
    Run(tmp_path / "both").begin(both)
    assert evaluate.trained_form(tmp_path / "both") == "masked"
