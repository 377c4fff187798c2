"""Killed anywhere between selecting and the last rename, a run loses nothing and tears nothing.

`kill -9` at seeded places: at any call in the pair phase, in the write phase before any action on a
file. After each, whoever opens the shard folder finds the old write or the new one, whole.
The next start ends with the bytes of a run that was never stopped, and leaves nothing beside.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from killed_write import Kill, run
from written_run import hashes

from s2v.datapipe.base.media.cut import animate_still
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.views import STATE
from s2v.datapipe.write.verify import verify_shards

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["killed_write"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    picture = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    animate_still(encode_jpeg(picture), path, seconds=1, fps=8, short_side=48)
    return path


def of_run(folder: Path) -> dict[str, str]:
    """Digests of all files but the one that says when views were written."""
    return {name: digest for name, digest in hashes(folder).items() if name != STATE}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def finish(folder: Path, clip: Path, *, takedown: bool) -> tuple[int, int]:
    """A whole run: calls of its pair phase and its actions on files."""
    answer = PROCESSES.Queue()
    process = PROCESSES.Process(
        target=run,
        args=(folder, clip),
        kwargs={"takedown": takedown, "kill": Kill(), "answer": answer},
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    found: tuple[int, int] = answer.get(timeout=5)
    return found


@pytest.mark.parametrize(("kills", "seed"), [(4, 1), pytest.param(20, 2, marks=pytest.mark.prove)])
def test_seeded_kills_in_the_pair_and_write_phases_lose_and_tear_nothing(
    tmp_path: Path, clip: Path, kills: int, seed: int
) -> None:
    before, whole, folder = (made(tmp_path / name) for name in ("before", "whole", "run"))
    finish(before, clip, takedown=False)
    finish(whole, clip, takedown=False)
    assert hashes(before / "shards") == hashes(whole / "shards")
    calls, actions = finish(whole, clip, takedown=True)
    assert actions > 60
    assert calls > 1000
    finish(folder, clip, takedown=False)
    old, new = hashes(before / "shards"), hashes(whole / "shards")
    assert old.keys() != new.keys()
    draw = random.Random(seed)
    seen = set()
    for n in range(kills):
        # A quarter in the pair phase; the others one in each stretch of the write, in any order.
        place = draw.random()
        pair = n % 4 == 0
        kill = Kill(
            call=int(calls * place) if pair else None,
            action=None if pair else int(actions * (n + place) / kills),
        )
        process = PROCESSES.Process(
            target=run, args=(folder, clip), kwargs={"takedown": True, "kill": kill}
        )
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, kill
        found = hashes(folder / "shards")
        assert found in (old, new), f"a torn folder after {kill}"
        verify_shards(folder / "shards")
        seen.add("old" if found == old else "new")
    assert "old" in seen
    finish(folder, clip, takedown=True)
    assert of_run(folder) == of_run(whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
