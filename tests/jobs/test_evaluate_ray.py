"""Evaluation on Ray is evaluation: the same bytes with a pool per encoder as from one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import evaluate as evaluate_job
import numpy as np
import pytest
from finished_run import called, job
from pools import Pooled, sizes

from s2v.datapipe.base.assets import asset
from s2v.datapipe.engine.pools import AdmissionError
from s2v.evals import media
from s2v.evals.metrics import protocols, roles
from s2v.evals.run import evaluate

SUITE = "facesim.light.dlib,subjectsim.light.mobilenet,motion"


def film(path: Path, image: Any) -> None:
    """Four frames that move over a photograph."""
    big = cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 176, 176, "yuv420p"
        for n in range(4):
            frame = np.ascontiguousarray(big[n : n + 176, 2 * n : 2 * n + 176])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three films of photographs, one of them with a reference that has no face."""
    lines = []
    for name, shown, reference in (
        ("a", "obama-1", "obama-2"), ("b", "biden", "obama-1"), ("c", "man-photo", "quokka"),
    ):  # fmt: skip
        film(tmp_path / f"{name}.mp4", media.read_image(asset(shown)))
        image = cv2.resize(media.read_image(asset(reference)), (240, 240))
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[..., ::-1])
        ref = {"path": f"{name}.png", "phrase": "him", "class": "person", "is_face": True}
        lines.append(
            {
                "sample_id": name, "video": f"{name}.mp4", "prompt": "a man", "refs": [ref],
                "model": "toy", "source": "generated", "reference_id": name,
            }
        )  # fmt: skip
    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.ray
@pytest.mark.assets
def test_pools_write_what_one_process_writes(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(manifest, tmp_path / "one", SUITE, progress=False, report=False)
    common = [
        "--manifest",
        str(manifest),
        "--suite",
        SUITE,
        "--cpus",
        "2",
        "--quiet",
        "--no-report",
    ]
    done = job(
        "evaluate", *common, "--out", str(tmp_path / "ray"), "--videos", "2", "--pool", "image=2",
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("per_sample.parquet", "summary.json", "failures.csv", "run.json"):
        ours, theirs = ((tmp_path / where / name).read_bytes() for where in ("one", "ray"))
        assert ours == theirs, name
    assert b"reference_without_face" in (tmp_path / "ray/failures.csv").read_bytes()
    # Everything is in the cache: no pool is started, and an unknown one is still refused.
    away = ("--manifest", "here.jsonl", "--out", str(tmp_path / "x"))
    refused = called(capfd, evaluate_job.main, *away)
    assert refused.returncode == 1
    assert "absolute" in refused.stderr


def test_what_does_not_fit_is_said_before_anything_starts() -> None:
    found = sizes(["image", "segmenter"], 2.0, videos=None, pools={}, gpus=0.0)
    assert (found.videos, dict(found.encoders)) == (1, {"image": 1, "segmenter": 1})
    assert found.cpus * 3 <= 2.0
    large = sizes(["image"], 64.0, videos=None, pools={"image": 8}, gpus=1.0)
    assert (large.videos, large.cpus, large.gpus) == (56, 1.0, 1.0)
    with pytest.raises(AdmissionError, match=r"101 actors do not fit on 2 CPUs"):
        sizes(["image"], 2.0, videos=100, pools={}, gpus=0.0)
    with pytest.raises(AdmissionError, match="--pool clip: no metric of this suite asks it"):
        sizes(["image"], 2.0, videos=1, pools={"clip": 2}, gpus=0.0)
    with pytest.raises(AdmissionError, match="at least one actor"):
        sizes(["image"], 2.0, videos=1, pools={"image": 0}, gpus=0.0)


@pytest.mark.parametrize(
    "option",
    [["--seed", "3"], ["--weights", "w"], ["--pool", "image=2"], ["--keep-going"]],
    ids=lambda o: o[0],
)
def test_an_option_that_sampling_does_not_heed_is_refused(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run", str(tmp_path), "--shards", str(tmp_path), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as caught:
        evaluate_job.main([*arguments, *option])
    assert caught.value.code == 2
    assert f"{option[0]} goes with --manifest, not with --run" in capsys.readouterr().err
    assert evaluate_job.main([*arguments, "--limit", "0"]) == 1
    assert "--limit 0: at least one" in capsys.readouterr().err


def test_the_encoders_of_a_protocol_are_known_without_loading_one() -> None:
    assert roles("facesim.light.dlib") == ("face_detector", "dlib_face")
    assert roles("motion") == ()
    for suite in ("light", "radar", "copy", "published"):
        for name in protocols(suite):
            free = ("motion.", "dynamic.", "structure.", "smoothness.", "flicker.", "motion-")
            assert roles(name) or name.startswith(free), name


def test_a_pooled_encoder_has_the_attributes_of_the_real_one() -> None:
    pooled = Pooled({"id": "net", "context": 32}, [])
    assert (pooled.id, pooled.context) == ("net", 32)
    assert not hasattr(pooled, "_private")
