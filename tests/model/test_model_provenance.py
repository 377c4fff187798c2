"""A generated video says what it is; one that was changed, or says nothing, is found out."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from s2v.model import provenance
from s2v.model.cli import main
from s2v.model.errors import ModelError
from s2v.model.output import write_mp4

RECORD = {"prompt": "a röd fox", "seed": 3, "model": {"sha256": "ab" * 32}}


def _video(seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:48, :80]
    frames = [[(2 * x + y + 9 * i + 40 * c + 7 * seed) % 200 for c in range(3)] for i in range(7)]
    return np.array(frames).transpose(0, 2, 3, 1).astype(np.uint8)


def test_the_record_is_in_the_file_and_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    written = provenance.write_video(path, _video(), 8.0, RECORD)
    found = provenance.verify(path)
    assert found.record == written
    assert found.intact
    assert found.record["generated"] is True
    assert found.record["prompt"] == "a röd fox"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]
    assert main(["verify", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["sha256"] == "ab" * 32
    other = tmp_path / "b.mp4"
    provenance.write_video(other, _video(), 8.0, RECORD)
    assert other.read_bytes() == path.read_bytes()


def _remuxed(source: Path, path: Path, packets: slice, comment: str | None = None) -> None:
    """Copy packets without encoding anew, as a cutter does."""
    with av.open(str(source)) as file, av.open(str(path), "w") as out:
        out.metadata["comment"] = comment or file.metadata["comment"]
        stream = file.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in [p for p in file.demux(stream) if p.dts is not None][packets]:
            packet.stream = copy
            out.mux(packet)


def test_copied_to_another_container_it_is_still_itself(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.mp4", tmp_path / "a.mov"
    provenance.write_video(path, _video(), 8.0, RECORD)
    _remuxed(path, copy, slice(None))
    assert provenance.verify(copy).intact


def test_a_changed_video_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp4"
    provenance.write_video(path, _video(), 8.0, RECORD)
    cut = tmp_path / "cut.mp4"
    _remuxed(path, cut, slice(0, 5))
    with av.open(str(path)) as file:
        comment = file.metadata["comment"]
    moved = tmp_path / "moved.mp4"
    plain = tmp_path / "plain.mp4"
    write_mp4(plain, _video(1), 8.0)
    _remuxed(plain, moved, slice(None), comment)
    for changed in (cut, moved):
        assert main(["verify", str(changed)]) == 2
        told = capsys.readouterr().err
        assert f"{changed}: its record is of other frames" in told
        assert told.count("\n") == 1


def test_a_video_of_another_shape_and_the_same_bytes_is_another(tmp_path: Path) -> None:
    digests = []
    for name, (height, width) in {"wide": (32, 64), "tall": (64, 32)}.items():
        write_mp4(tmp_path / f"{name}.mp4", np.full((3, height, width, 3), 128, np.uint8), 8.0)
        digests.append(provenance.frames_digest(tmp_path / f"{name}.mp4"))
    assert digests[0] != digests[1]


def test_what_is_not_ours_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, text, none = tmp_path / "plain.mp4", tmp_path / "text.mp4", tmp_path / "none.mp4"
    write_mp4(plain, _video(), 8.0)
    text.write_text("no video")
    cases = {plain: "carries no record", text: "not a video", none: "no such file"}
    half = tmp_path / "half.mp4"
    provenance.write_video(half, _video(), 8.0, RECORD)
    half.write_bytes(half.read_bytes()[:-400])
    for path, message in {**cases, half: "half.mp4"}.items():
        assert main(["verify", str(path)]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert str(path) in told
        assert told.count("\n") == 1


@pytest.mark.parametrize("comment", ["{", "[]", '{"format": "s2v-sample-1"}', '{"format": 3}', ""])
def test_a_strange_comment_is_no_record(tmp_path: Path, comment: str) -> None:
    plain, path = tmp_path / "plain.mp4", tmp_path / "a.mp4"
    write_mp4(plain, _video(), 8.0)
    if comment:
        provenance._tag(plain, path, comment)
    else:
        path = plain
    with pytest.raises(ModelError, match="carries no record"):
        provenance.verify(path)


def test_the_mark_is_in_every_frame_and_only_in_its_corner() -> None:
    video = _video()
    marked = provenance.mark(video, "AI")
    changed = (marked != video).any(axis=-1)
    assert changed.any(axis=(1, 2)).all()
    rows, columns = np.nonzero(changed.any(axis=0))
    assert rows.min() > 24
    assert columns.min() > 40
    assert rows.max() == 47
    assert columns.max() == 79
    # Light text on a dark plate can be read whatever lies below.
    corner = marked[0, rows.min() :, columns.min() :]
    assert corner.max() > 200
    assert corner.min() < 40
    long = provenance.mark(video, "x" * 60)
    assert long.shape == video.shape
