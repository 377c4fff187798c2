"""A bank of image pairs becomes shards of one-frame videos that the trainer reads; and a takedown.

Real photographs through every stage of the embedded profile: two of one man whom a bank pairs, one
of him in a file of its own, and strangers.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished_run import called

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.datapipe.cli import main
from s2v.datapipe.write.verify import verify_shards

pytestmark = [pytest.mark.ray, pytest.mark.assets]

#: Member of the bank's tar -> picture. One key is one pair.
PAIRED = {"0001.a": "obama-1", "0001.b": "obama-2", "0002.a": "biden", "0002.b": "coffee"}
ALONE = ("obama-3", "astronaut", "cat")


def made(folder: Path) -> Path:
    """The bank, a manifest of single pictures, and the configuration."""
    fetch((*PAIRED.values(), *ALONE))
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for name, picture in PAIRED.items():
            path = asset(picture)
            tar.add(path, f"{name}{path.suffix}")
    rows = [{"video_id": n, "path": str(asset(n)), "kind": "image"} for n in ALONE]
    (folder / "alone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "images.toml"
    config.write_text(
        f'folder = "{folder / "run"}"\n'
        f'[[sources]]\nbank = "{folder / "pairs.tar"}"\npairs = true\nlicence = "test"\n'
        f'[[sources]]\nmanifest = "{folder / "alone.jsonl"}"\n'
        "[engine]\nunit_clips = 4\n"
        "[select.sample]\nimage_samples = true\n"
        "[select.split]\ntest_share = 0.0\nheldout_share = 0.0\n"
    )
    return config


@pytest.fixture(scope="module")
def run(shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import ray

    config = made(tmp_path_factory.mktemp("images"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", shared_ray)
        assert main(["run", "--config", str(config), "--quiet"]) == 0
        ray.shutdown()
    return config.parent / "run"


def image_samples(run: Path) -> list[Sample]:
    return [s for s in ShardIndex.open(run / "shards") if s.row["pair_type"] == "image"]


def test_pictures_of_one_man_teach_each_other_and_nobody_else_is_paired(run: Path) -> None:
    sources = pq.read_table(run / "tables" / "sources.parquet").to_pylist()
    paired = [r for r in sources if "#0001." in r["path"]]
    assert len({r["pair_key"] for r in paired}) == 1
    him = {"obama-3", *(r["video_id"] for r in paired)}
    assert len(him) == 3
    pairs = {
        (s.row["video_id"], ref.from_.source) for s in image_samples(run) for ref in s.meta().refs
    }
    assert len(pairs) >= 2
    assert {one for pair in pairs for one in pair} <= him
    assert all(target != reference for target, reference in pairs)


def test_each_is_one_whole_frame_of_its_photograph(run: Path, tmp_path: Path) -> None:
    assert verify_shards(run / "shards", deep=True)["clips decoded"] >= 2
    sources = {
        r["video_id"]: r for r in pq.read_table(run / "tables" / "sources.parquet").to_pylist()
    }
    for sample in image_samples(run):
        assert sample.row["frames"] == 1
        path = tmp_path / "clip.mp4"
        path.write_bytes(sample.read("mp4"))
        with open_video(path) as video:
            pictures = [f.to_ndarray(format="rgb24") for _, f, _ in decoded(video, 40_000)]
        assert len(pictures) == 1
        assert probe(path).declared_frames == 1
        path_in_bank = sources[sample.row["video_id"]]["path"].partition("#")[2]
        name = PAIRED[path_in_bank.rpartition(".")[0]] if path_in_bank else "obama-3"
        picture = asset(name)
        photograph = load_image(picture)
        # The same picture: its means by quarters agree.
        for side in (pictures[0], photograph):
            assert min(side.shape[:2]) >= 2
        quarters = [
            np.array([
                part.mean(axis=(0, 1))
                for rows in np.array_split(side, 4, axis=0)
                for part in np.array_split(rows, 4, axis=1)
            ])
            for side in (pictures[0], photograph)
        ]  # fmt: skip
        assert np.abs(quarters[0] - quarters[1]).max() < 8


def test_the_trainer_reads_them_as_windows_of_one_frame(run: Path) -> None:
    pytest.importorskip("torch")
    from s2v.model.config import DataConfig
    from s2v.model.data.index import select
    from s2v.model.data.reader import Reader
    from s2v.model.data.references import forms

    config = DataConfig(height=96, width=96, frames=1, mix={"image": 1.0}, variants=1)
    found = select(ShardIndex.open(run / "shards"), config, "train")
    assert {s.id for s in found.samples} == {s.id for s in image_samples(run)}
    for sample in found.samples:
        clip = Reader(config).read(sample)
        assert [v.shape for v in clip.videos] == [(1, 96, 96, 3)]
        assert clip.meta.caption
        assert len(clip.references) == sample.row["references"] >= 1
        assert set(forms(clip.references[0])) == {"crop", "white", "masked"}


def test_a_takedown_of_one_erases_it_and_measures_nothing_again(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], ray_here: None
) -> None:
    gone = image_samples(run)[0].row["video_id"]
    picture = image_samples(run)[0].read("mp4")
    line = {"key_type": "video_id", "key": gone, "reason": "asked", "by": "him", "when": "now"}
    (tmp_path / "no.jsonl").write_text(json.dumps(line) + "\n")
    listed = ("--list", str(tmp_path / "no.jsonl"))
    done = called(capfd, main, "takedown", str(run), *listed, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sources erased"] == [gone]
    assert told["lines that no row has"] == []
    for path in run.rglob("*"):
        if path.is_file() and path.name not in ("exclusions.jsonl", "tombstones.json"):
            assert picture not in path.read_bytes()
        if path.suffix == ".parquet" and path.parent.name != "index":
            for row in pq.read_table(path, partitioning=None).to_pylist():
                assert gone not in (row.get("video_id"), row.get("id")), path
                assert not str(row.get("clip_id", "")).startswith(f"{gone}-0"), path
    left = image_samples(run)
    assert gone not in {one.from_.source for s in left for one in s.meta().refs}
    assert gone not in {s.row["video_id"] for s in left}
    verify_shards(run / "shards", deep=True)
    # The manifest still names it: no later run brings it back, and none measures anything.
    again = called(capfd, main, "run", "--config", str(run.parent / "images.toml"), "--quiet")
    assert again.returncode == 0, again.stderr
    assert "measured now: {}" in again.stdout
    assert gone not in {
        r["video_id"] for r in pq.read_table(run / "tables" / "sources.parquet").to_pylist()
    }
