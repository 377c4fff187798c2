"""Stages ``embed`` and ``faces`` with every backend of their role, on real frames of a run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_tables import film_world
from tiny_faces import face_picture, insightface_folder, open_clip_files

from s2v.datapipe.backends import registry
from s2v.datapipe.base import records
from s2v.datapipe.base.media import masks
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure import embed as embedding
from s2v.datapipe.measure.embed import EmbedStage, cut_out
from s2v.datapipe.measure.faces import FaceStage
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import ImageEmbedder, Vectors

CLIPS = ["film-00001000-00007000", "film-00021000-00027000"]


def run_folder(folder: Path, *, faces: bool = False) -> Unit:
    """Two clips of the synthetic film with stored frames, the first with two subjects."""
    world = film_world()
    for n, (frame, picture) in enumerate(sorted(world.pictures.items())):
        if faces:
            world.pictures[frame] = face_picture(picture.shape[1], picture.shape[0], [(40, 40, 64)])
        else:
            cv2.circle(picture, (50 + n % 9, 90), 40, (255, 0, 25 * (n % 10)), -1)
    world.store_frames(folder)
    tables = {name: [dict(r) for r in rows] for name, rows in world.rows.items()}
    return Unit("u", "clip_id", CLIPS, tables, folder)


def build(role: str, backend: str, folder: Path) -> object:
    options: dict[str, str] = {}
    if backend == "open_clip":
        config, weights = open_clip_files(folder / "clip")
        options = {"model": str(config), "weights": str(weights)}
    if backend == "insightface":
        options = {"weights": str(insightface_folder(folder / "pack"))}
    return registry.factory(registry.BACKENDS[role][backend])(options, f"roles.{role}", {})


class Counting:
    """An embedder that remembers how many pictures it was given at once."""

    def __init__(self, model: ImageEmbedder) -> None:
        self.model = model
        self.calls: list[int] = []

    @property
    def model_id(self) -> str:
        return self.model.model_id

    def load(self) -> None:
        self.model.load()

    def embed(self, images: list[np.ndarray]) -> Vectors:
        self.calls.append(len(images))
        return self.model.embed(images)


@pytest.mark.parametrize("backend", ["appearance", "open_clip"])
def test_no_vector_lands_on_another_mask(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = run_folder(tmp_path / "run")
    model = build("embedder", backend, tmp_path)
    assert isinstance(model, ImageEmbedder)
    counting = Counting(model)
    found = EmbedStage(counting, GateSettings()).run(unit)["embeddings"]
    assert records.table("embeddings", found).num_rows == len(unit.rows("masks")) == 9
    assert sorted(counting.calls) == [6, 12], "one call for each clip"
    boxes = {row["detection_id"]: row for row in unit.rows("detections")}
    reader, frames = FrameReader(unit.run), {r["frame_id"]: r for r in unit.rows("frames")}
    rles = {row["detection_id"]: row for row in unit.rows("masks")}
    for row in found:
        box, rle = boxes[row["detection_id"]], rles[row["detection_id"]]
        size = [rle["rle_height"], rle["rle_width"]]
        mask = masks.decode({"size": size, "counts": rle["rle"]})
        image = reader.image(frames[box["frame_id"]])
        subject, background = cut_out(image, mask, tuple(box["box"]))
        alone = model.embed([subject]), model.embed([background])
        assert np.allclose(row["subject"], alone[0][0], atol=1e-6)
        assert np.allclose(row["background"], alone[1][0], atol=1e-6)
    monkeypatch.setattr(embedding, "TOGETHER", 2)
    again = EmbedStage(Counting(model), GateSettings()).run(unit)["embeddings"]
    assert again == found, "how many are asked for at once changes nothing"


def test_insightface_fills_the_face_stage_of_a_run(tmp_path: Path) -> None:
    unit = run_folder(tmp_path / "run", faces=True)
    for row in unit.tables["phrases"]:
        row["bank"] = "person"
    model = build("faces", "insightface", tmp_path)
    found = FaceStage(model, GateSettings()).run(unit)  # type: ignore[arg-type]  # the role's
    assert unit.quarantine == []
    faces: list[Row] = found["faces"]
    assert len(faces) == 6
    assert records.table("faces", faces).num_rows == 6
    for row in faces:
        assert np.allclose(row["box"], (40, 40, 104, 104), atol=2)
        # The first person's box begins at x = 10; the second one's at 110 holds nothing of it.
        assert row["detection_id"].endswith("-0")
        assert abs(row["yaw"]) < 5
        assert abs(row["roll"]) < 2
        assert len(row["embedding"]) == 512
    people = {row["clip_id"]: row for row in found["people"]}
    assert [people[clip]["persons"] for clip in CLIPS] == [2, 1]
    assert {row["count_stable"] for row in people.values()} == {1.0}
    assert {row["same_person"] for row in people.values()} == {1.0}
