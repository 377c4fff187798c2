"""What strangers, editors, disks and impatient people do to files: one clear line, nothing lost."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v.datapipe.base.media.errors import MediaError
from s2v.evals import media
from s2v.evals import run as run_module
from s2v.evals.cli import main
from s2v.evals.errors import EvalError
from s2v.evals.inspection import extra_videos, inspect
from s2v.evals.lock import only_one
from s2v.evals.manifest import load_manifest
from s2v.evals.report.runs import Run
from s2v.evals.run import evaluate


def scored(study: Any, out: Path, **options: Any) -> Path:
    options = {"cache": study.shared_cache, "replicates": 100, **options}
    evaluate(study.save(), out, "motion", progress=False, **options)
    return out


def problems(study: Any) -> dict[str, str]:
    manifest = load_manifest(study.save())
    return {p.sample_id: p.kind for p in inspect(manifest, manifest.samples)[1]}


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command says."""
    assert main([str(a) for a in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if "error:" in line]) == 1
    return lines[-1]


# Manifests


def test_an_editors_byte_order_mark_and_line_ends_are_no_error(study: Any) -> None:
    plain = load_manifest(study.save()).samples
    text = study.manifest.read_text().replace("\n", "\r\n")
    study.manifest.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_manifest(study.manifest).samples == plain


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("video", "videos/a\0.mp4", "video: String should match"),
        ("seed", 2**63, "seed: Input should be less than"),
        ("seed", float("nan"), "seed: "),
        ("sample_id", "../../etc", "sample_id: String should match"),
        ("sample_id", "süß", "sample_id: String should match"),
        ("fps", 0, "fps: Input should be greater than 0"),
    ],
)
def test_values_that_would_break_a_run_at_its_end_are_refused_at_its_start(
    study: Any, capsys: pytest.CaptureFixture[str], field: str, value: Any, message: str
) -> None:
    study.lines[1][field] = value
    study.save()
    line = said(capsys, "validate", study.manifest)
    assert f"line 2: {message}" in line


def test_a_manifest_without_an_end_is_not_read_into_memory(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2v.evals.manifest.MAX_BYTES", 1000)
    with pytest.raises(EvalError, match="more than 1000 bytes; is it the manifest"):
        load_manifest(study.save())


def test_what_a_stranger_wrote_moves_no_cursor_and_has_an_end(
    study: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study.lines[0]["colour\x1b[31m"] = "x"
    study.save()
    assert "\x1b" not in said(capsys, "validate", study.manifest)
    del study.lines[0]["colour\x1b[31m"]
    study.lines[0]["source"] = "y" * 100_000
    study.save()
    assert len(said(capsys, "validate", study.manifest)) < 2200
    study.lines[0]["source"] = "generated"
    for line in study.lines:
        line["model"] = "red\x1b[31m\nmodel"
    scored(study, tmp_path / "o")
    assert main(["leaderboard", str(tmp_path / "o"), "--source", "consisid"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "red�[31m model" in out


# Media


def test_links_in_a_circle_and_endless_names_are_counted_and_stop_nothing(study: Any) -> None:
    videos = study.root / "videos"
    (videos / "a-1.mp4").unlink()
    (videos / "a-1.mp4").symlink_to("loop.mp4")
    (videos / "loop.mp4").symlink_to("a-1.mp4")
    study.lines[1]["video"] = "videos/" + "n" * 300 + ".mp4"
    found = problems(study)
    assert found["a-1"] == "video_missing"
    assert found["a-2"].startswith("video_")
    assert set(found) == {"a-1", "a-2"}
    assert extra_videos(load_manifest(study.manifest)) == ["videos/a-2.mp4"]


def test_a_file_that_may_not_be_read_is_named_and_no_sample_is_called_bad(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *a, **k: False)  # as for any user but root
    with pytest.raises(MediaError, match="may not be read by this user") as caught:
        media.require_file(study.root / "videos" / "a-1.mp4")
    assert caught.value.transient


def test_a_folder_that_may_not_be_listed_hides_only_its_extra_videos(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(study.save())
    (study.root / "videos" / "more.mp4").write_bytes(b"x")
    assert extra_videos(manifest) == ["videos/more.mp4"]

    def forbidden(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert extra_videos(manifest) == []


def test_a_video_of_another_rate_than_stated_is_refused(study: Any) -> None:
    for line, fps in zip(study.lines, (8, 8.1, 16, None), strict=True):
        line["fps"] = fps
    manifest = load_manifest(study.save())
    usable, found = inspect(manifest, manifest.samples)
    assert [(p.sample_id, p.kind) for p in found] == [("b-1", "wrong_fps")]
    assert "8 frames a second, the manifest says 16" in found[0].message
    assert len(usable) == 3


def test_more_frames_than_memory_holds_are_a_counted_failure(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_FEW", 4)
    monkeypatch.setattr(media, "_MAX_BYTES", 96 * 160 * 3 * 9)
    path = study.root / "videos" / "a-1.mp4"
    times = media.frame_times(path)
    assert len(media.read_frames(path, times, range(9))) == 9
    with pytest.raises(MediaError, match="10 frames of 160x96 take 0 GB at once; cut the video"):
        media.read_frames(path, times, range(10))
    scored(study, tmp_path / "o", on_problem="record", cache=None)
    assert "video_too_large" in (tmp_path / "o" / "failures.csv").read_text()


# Runs


def test_two_runs_at_once_never_write_one_folder(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    arguments = ("run", study.save(), "--out", out, "--suite", "motion", "--no-progress")
    with only_one(out):
        line = said(capsys, *arguments)
    assert f"{out}: another process is writing results there" in line
    assert not (out / "summary.json").exists()
    assert main([str(a) for a in (*arguments, "--cache", study.shared_cache)]) == 0


def test_a_run_that_dies_while_writing_leaves_no_half_of_another(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = scored(study, tmp_path / "o")
    for line in study.lines:
        line["model"] = "newer"

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.write, "failures", dies)
        with pytest.raises(KeyboardInterrupt):
            scored(study, out)
    with pytest.raises(EvalError, match="s2v-eval run"):
        Run.load(out)
    assert not (out / "report.html").exists()
    scored(study, out)
    assert {r["model"] for r in Run.load(out).rows} == {"newer"}


def test_a_run_without_a_page_leaves_no_older_page_beside_its_numbers(
    study: Any, tmp_path: Path
) -> None:
    out = scored(study, tmp_path / "o")
    assert (out / "report.html").exists()
    scored(study, out, report=False)
    assert not (out / "report.html").exists()


def test_a_changed_cache_entry_is_measured_again_and_never_believed(
    study: Any, tmp_path: Path
) -> None:
    out = scored(study, tmp_path / "o", cache=None)
    before = (out / "per_sample.parquet").read_bytes()
    entries = sorted((out / "cache").glob("*.light.farneback/*.json"))
    texts = [b"[1]", b"[" * 100_000, b"\xff\x00", b""]
    for entry, damage in zip(entries, ("figure", "part", "NaN", "status", *texts), strict=True):
        content = json.loads(entry.read_text())
        if damage == "part":
            del content["parts"]
        if damage == "status":
            content["status"] = "failed"
        if damage in ("figure", "NaN"):
            content["score"] = 99.0 if damage == "figure" else float("nan")
        entry.write_bytes(damage if isinstance(damage, bytes) else json.dumps(content).encode())
    scored(study, out, cache=None)
    assert (out / "per_sample.parquet").read_bytes() == before


@pytest.mark.parametrize("text", ['{"times_us": "123"}', '{"times_us": [5, 1]}', "[]", "[" * 9999])
def test_damaged_frame_times_are_decoded_again(study: Any, tmp_path: Path, text: str) -> None:
    manifest = load_manifest(study.save())
    kept = tmp_path / "times"
    whole = inspect(manifest, manifest.samples[:2], cache=kept)[0]
    for path in kept.iterdir():
        path.write_text(text)
    assert inspect(manifest, manifest.samples[:2], cache=kept)[0] == whole


def test_a_video_on_which_a_network_stumbles_costs_that_number_only(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(*_: object) -> None:
        raise IndexError("no face 3")

    monkeypatch.setattr("s2v.evals.metrics.motion.DynamicRate.measure", stumbles)
    scored(study, tmp_path / "o", cache=None)
    text = (tmp_path / "o" / "failures.csv").read_text()
    assert text.count("IndexError: 'no face 3'") == 4 or text.count("IndexError: no face 3") == 4


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "m", "--out", "o", "--seed", "-1"],
        ["compare", "a", "b", "--seed", "x"],
        ["report", "a", "--out", "p", "--panels", "-2"],
        ["study", "build", "m", "--out", "o", "--groups", "0"],
        ["study", "report", "s", "--seed", "-3"],
        ["suite", "build", "p", "--out", "o", "--kind", "id", "--seeds", "0"],
    ],
)
def test_a_number_that_cannot_be_is_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "is no whole number of" in capsys.readouterr().err


def test_limits_outside_their_range_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "min_gold" in said(capsys, "study", "report", tmp_path, "--min-gold", "2")
    arguments = ("suite", "build", tmp_path / "p", "--out", tmp_path, "--kind", "id")
    assert "--max-similarity nan" in said(capsys, *arguments, "--max-similarity", "nan")


def test_a_terminal_without_unicode_shows_the_table_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert main(["leaderboard", "--source", "consisid"]) == 0
    terminal.seek(0)
    assert "facesim_arc ?" in terminal.read()


def test_places_are_left_out_where_a_subject_is_cut_out(study: Any, tmp_path: Path) -> None:
    from s2v.evals.metrics.base import Case, RefImage
    from s2v.evals.metrics.catalogue.copies import POSE
    from s2v.evals.metrics.catalogue.subjects import SUBJECT_SEG
    from s2v.evals.metrics.copying import Pose
    from s2v.evals.metrics.subject import SegmentedSubjectSimilarity

    class LeftHalf:
        id = "left-half"

        def mask(self, image: Any) -> Any:
            mask = np.zeros(image.shape[:2], bool)
            mask[:, : image.shape[1] // 2] = True
            return mask

    class MeanColour:
        id = "mean-colour"

        def embed(self, images: Any) -> Any:
            found = np.stack([i.reshape(-1, 3).mean(axis=0) for i in images]).astype(np.float32)
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    red, blue = (np.full((32, 32, 3), c, np.uint8) for c in ((250, 9, 9), (9, 9, 250)))
    metric = SegmentedSubjectSimilarity(SUBJECT_SEG, MeanColour, LeftHalf)

    def score(*refs: RefImage) -> Any:
        return metric.measure(Case(dict.fromkeys(range(5), red), range(5), refs))

    alone = score(RefImage(red))
    assert score(RefImage(red), RefImage(blue, is_scene=True)).score == alone.score
    assert score(RefImage(red), RefImage(blue)).score < alone.score
    assert score(RefImage(blue, is_scene=True)).reason == "only_scene_references"
    case = Case(dict.fromkeys(range(5), red), range(5), (RefImage(blue, is_scene=True),))
    assert Pose(POSE, LeftHalf).measure(case).status == "not_applicable"
    study.lines[0]["refs"][0] |= {"is_scene": True, "is_face": True}
    with pytest.raises(EvalError, match="a face or a scene, not both"):
        load_manifest(study.save())
