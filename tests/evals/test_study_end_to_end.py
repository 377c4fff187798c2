"""From manifests to pages to answers to a verdict, and what must not slip through between."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from s2v.evals import media
from s2v.evals.cli import main
from s2v.evals.errors import EvalError
from s2v.evals.study.build import build
from s2v.evals.study.exclude import Rules
from s2v.evals.study.ingest import ingest
from s2v.evals.study.records import Item, Key
from s2v.evals.study.result import report

SECRETS = ("zebra-model", "quagga-model", "zebra", "quagga")
GOOD = "zebra-model"


@pytest.fixture(scope="module")
def manifest(
    tmp_path_factory: pytest.TempPathFactory, encode_video: Any, pan: Any, textured: Any
) -> Path:
    """Three references, two models."""
    root = tmp_path_factory.mktemp("study")
    lines = []
    for ref in ("r1", "r2", "r3"):
        PIL.Image.fromarray(textured(5, (255, 120, 40))).save(root / f"{ref}.png")
        for n, model in enumerate((GOOD, "quagga-model")):
            video = root / f"{ref}-{model}.mp4"
            encode_video(video, pan(textured(int(ref[1]), (200, 160, 90 + n)), n=6, step=2 + n))
            lines.append({
                "sample_id": f"{ref}-{model}", "video": video.name, "prompt": f"text <of> {ref}",
                "refs": [{"path": f"{ref}.png", "mask": None, "phrase": "x", "class": "thing"}],
                "seed": 3, "model": model, "source": "generated", "reference_id": ref,
            })  # fmt: skip
    path = root / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def pair_study(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "s"
    build([manifest], out, mode="pairwise", raters=4, per_rater=3, gold=2, repeats=1, seed=7)
    return out


@pytest.fixture(scope="module")
def scale_study(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scale") / "s"
    build([manifest], out, mode="scale", raters=4, per_rater=3, gold=2, repeats=1, seed=7)
    return out


def key_of(study: Path) -> Key:
    return Key.model_validate_json((study / "key.json").read_text())


def prefers_good(item: Item) -> str:
    """What an attentive rater says who likes the zebra."""
    if item.expect:
        return item.expect
    if len(item.models) == 2:
        return ("left", "right")[item.models.index(GOOD)]
    return "3" if item.models[0] == GOOD else "1"


def answer(
    study: Path,
    rater: str,
    choose: Callable[[Item], str],
    folder: Path,
    changes: dict[str, Any] | None = None,
) -> Path:
    key = key_of(study)
    content: dict[str, Any] = {
        "schema": "s2v-eval-answers/1",
        "study": key.study,
        "rater": rater,
        "given": [
            {"item": item.id, "answers": {q.id: choose(item) for q in key.questions},
             "ms": 9000, "place": n}
            for n, item in enumerate(key.sessions[rater])
        ],
    }  # fmt: skip
    content.update(changes or {})
    path = folder / f"{rater}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(content))
    return path


def test_nothing_that_raters_get_tells_a_model_or_a_trick(pair_study: Path) -> None:
    key = key_of(pair_study)
    names = [p.name for p in (pair_study / "rate").rglob("*") if p.is_file()]
    texts = [p.read_text() for p in (pair_study / "rate").glob("*.html")]
    for secret in (*SECRETS, "gold", "repeat", "expect", "r1-", "key.json"):
        assert not [n for n in names if secret in n]
        assert not [t for t in texts if f'"{secret}' in t or f"{secret}-model" in t]
    for video in (pair_study / "rate" / "media").glob("*.mp4"):
        assert not [s for s in SECRETS if s.encode() in video.read_bytes()]
    assert len(set(key.sessions)) == 4


def test_the_order_of_file_names_tells_no_model(pair_study: Path, scale_study: Path) -> None:
    for study in (pair_study, scale_study):
        shown = {
            code: (item.group, model, item.kind == "gold")
            for items in key_of(study).sessions.values()
            for item in items
            for code, model in zip(item.media, item.models, strict=True)
        }
        in_order = [shown[code] for code in sorted(shown)]
        assert in_order != sorted(in_order)
        assert in_order != sorted(in_order, key=lambda one: one[1])


def test_media_are_the_videos_whole_and_gold_is_visibly_damaged(
    scale_study: Path, manifest: Path
) -> None:
    key = key_of(scale_study)
    sizes = {}
    for items in key.sessions.values():
        for item in items:
            path = scale_study / "rate" / "media" / item.media[0]
            times = media.frame_times(path)
            assert len(times) == 6
            sizes[item.kind, item.media[0]] = media.read_frames(path, times, [0])[0].shape[0]
    assert {h for (kind, _), h in sizes.items() if kind != "gold"} == {96}
    assert {h for (kind, _), h in sizes.items() if kind == "gold"} == {24}


def test_the_same_seed_builds_the_same_study(manifest: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build([manifest], tmp_path / name, raters=2, per_rater=2, seed=5)
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second


def test_a_study_under_way_is_not_overwritten(manifest: Path, pair_study: Path) -> None:
    with pytest.raises(EvalError, match="not empty"):
        build([manifest], pair_study)


@pytest.mark.parametrize("kind", ["pair_study", "scale_study"])
def test_a_clear_preference_is_found_and_the_careless_are_left_out(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    study = request.getfixturevalue(kind)
    files = [answer(study, r, prefers_good, tmp_path) for r in ("r01", "r02", "r03")]
    same = key_of(study).choices[-1]
    files.append(answer(study, "r04", lambda _: same, tmp_path))
    ingest(study, files)
    got = report(study, replicates=200)
    assert got.raters == ("r01", "r02", "r03")
    assert got.left_out == ("r04",)
    assert [e.rule for e in got.log if e.broken and e.rater == "r04"].count("max_same") == 1
    for finding in got.findings:
        assert finding.wins[GOOD].estimate == 1.0
        assert finding.strengths[0].model == GOOD
        assert finding.pairs[0].bad == 9  # three raters, three prompts, by name quagga first
        assert finding.alpha.value == 1.0 if kind == "scale_study" else True
    page = (study / "report.html").read_text()
    assert "left out" in page
    assert "Win rate: share of the comparisons" in page
    assert ("Usable: marked 2 or 3" in page) == (kind == "scale_study")
    assert GOOD in page
    assert json.loads((study / "report.json").read_text())["schema"] == "s2v-eval-study-report/1"


def test_marks_have_means_and_those_of_everybody_beside_them(
    scale_study: Path, tmp_path: Path
) -> None:
    files = [answer(scale_study, r, prefers_good, tmp_path) for r in ("r01", "r02", "r03")]
    files.append(answer(scale_study, "r04", lambda _: "3", tmp_path))
    ingest(scale_study, files)
    marks = {m.model: m for m in report(scale_study, replicates=100).findings[0].marks}
    assert marks["quagga-model"].mean.estimate == 1.0
    assert marks["quagga-model"].everybody == 1.5
    assert marks["quagga-model"].usable.estimate == 0.0
    loose = Rules(min_gold=0, max_same=1)
    marks = {m.model: m for m in report(scale_study, rules=loose, replicates=100).findings[0].marks}
    assert marks["quagga-model"].mean.estimate == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "other"}, "answers of study 'other'"),
        ({"rater": "r99"}, "no session 'r99'"),
        ({"given": [{"item": "i999", "answers": {}, "ms": 1, "place": 0}]}, "not of this session"),
        ({"given": [{"item": "i001", "answers": {"quality": "5"}, "ms": 1, "place": 0}]},
         "choices"),
        ({"given": [{"item": "i001", "answers": {}, "ms": -1, "place": 0}]}, "greater than"),
        ({"surprise": 1}, "surprise"),
        ({"given": [{"item": "i001", "answers": {}, "ms": 1, "place": 2**31}]}, "less than"),
        ({"given": [{"item": "i001", "answers": {}, "ms": 1, "place": 0}] * 2}, "is there twice"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_are_refused_by_name(
    scale_study: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = answer(scale_study, "r01", prefers_good, tmp_path, changes)
    with pytest.raises(EvalError, match=message) as caught:
        ingest(scale_study, [path])
    assert str(path) in str(caught.value)


def test_one_session_counts_once(scale_study: Path, tmp_path: Path) -> None:
    files = [answer(scale_study, "r01", prefers_good, tmp_path) for _ in range(2)]
    with pytest.raises(EvalError, match="already in"):
        ingest(scale_study, files)


def test_the_three_commands_work_one_after_another(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    common = ["--raters", "2", "--per-rater", "2", "--gold", "1", "--repeats", "0", "--no-progress"]
    assert main(["study", "build", str(manifest), "--out", str(out), *common]) == 0
    assert "key.json" in capsys.readouterr().out
    sent = tmp_path / "sent"
    sent.mkdir()
    files = [str(answer(out, r, prefers_good, sent)) for r in ("r01", "r02")]
    assert main(["study", "report", str(out)]) == 1
    assert "study ingest" in capsys.readouterr().err
    assert main(["study", "ingest", str(out), *files]) == 0
    assert main(["study", "report", str(out), "--min-seconds", "10"]) == 1
    assert "no rater is left" in capsys.readouterr().err
    assert main(["study", "report", str(out)]) == 0
    assert "Krippendorff" in capsys.readouterr().out


def test_all_wrong_files_are_told_at_once_and_nothing_is_written(
    scale_study: Path, tmp_path: Path
) -> None:
    (scale_study / "answers.parquet").unlink(missing_ok=True)
    good = answer(scale_study, "r01", prefers_good, tmp_path)
    forged = answer(scale_study, "r02", prefers_good, tmp_path, {"study": "other"})
    cut = tmp_path / "cut.json"
    cut.write_bytes(b"\xff\xfe{")
    with pytest.raises(EvalError, match="1 files were right") as caught:
        ingest(scale_study, [good, forged, cut])
    assert str(forged) in str(caught.value)
    assert str(cut) in str(caught.value)
    assert not (scale_study / "answers.parquet").exists()


def test_raters_of_an_earlier_ingest_do_not_vanish_in_silence(
    scale_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(answer(scale_study, r, prefers_good, tmp_path)) for r in ("r01", "r02")]
    assert main(["study", "ingest", str(scale_study), *files]) == 0
    assert main(["study", "ingest", str(scale_study), files[0]]) == 0
    assert "note: r02 were in the study's table before" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["key.json", "answers.parquet"])
def test_a_damaged_study_is_named(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "s"
    build([manifest], out, raters=2, per_rater=1, gold=0, repeats=0)
    (tmp_path / "sent").mkdir()
    ingest(out, [answer(out, r, prefers_good, tmp_path / "sent") for r in ("r01", "r02")])
    (out / name).write_bytes(b"\xff\xfe\x00")
    assert main(["study", "report", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{out / name}: " in err


def test_answers_of_another_study_beside_a_key_are_refused(
    manifest: Path, scale_study: Path, tmp_path: Path
) -> None:
    files = [answer(scale_study, r, prefers_good, tmp_path) for r in ("r01", "r04")]
    ingest(scale_study, files)
    build([manifest], tmp_path / "s", raters=2, per_rater=1, gold=0, repeats=0)
    (tmp_path / "s" / "answers.parquet").write_bytes((scale_study / "answers.parquet").read_bytes())
    with pytest.raises(EvalError, match="has 'r04', which is no session"):
        report(tmp_path / "s")


def test_a_build_that_was_stopped_is_told_from_a_study(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "s" / "rate").mkdir(parents=True)
    with pytest.raises(EvalError, match="holds no whole study"):
        build([manifest], tmp_path / "s")


def test_a_broken_video_is_named_before_anything_is_written(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["video"] = str(manifest.parent / line["video"])
        line["refs"][0]["path"] = str(manifest.parent / line["refs"][0]["path"])
    (tmp_path / "cut.mp4").write_bytes(Path(lines[3]["video"]).read_bytes()[:1500])
    lines[3]["video"] = "cut.mp4"
    lines[4]["refs"][0]["path"] = "absent.png"
    other = tmp_path / "m.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["study", "build", str(other), "--out", str(tmp_path / "s"), "--no-progress"]
    assert main([*arguments, "--raters", "2"]) == 1
    err = capsys.readouterr().err
    assert "2 of 6 videos cannot be shown: " in err
    assert "; and 1 more" in err
    assert not (tmp_path / "s").exists()
