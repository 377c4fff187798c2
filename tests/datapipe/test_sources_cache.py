"""Fetched bytes are fetched once, stay within their bound, and are never taken away in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from s2v.datapipe.sources.cache import PINS, Cache


def key(n: int) -> str:
    return f"{n:040x}"


def fill(size: int) -> object:
    return lambda target: target.write_bytes(b"x" * size)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9a-f][0-9a-f]/*") if p.is_file())


def test_what_was_not_used_for_longest_goes_first_and_the_bound_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    for n in range(5):
        path = cache.get(key(n), ".mp4", fill(2000))  # type: ignore[arg-type]
        os.utime(path, ns=(n * 10**9, n * 10**9))
    os.utime(cache.get(key(0), ".mp4", fill(1)), ns=(10**12, 10**12))  # type: ignore[arg-type]
    cache.release()
    cache.get(key(9), ".mp4", fill(3000), 3000)  # type: ignore[arg-type]
    assert [p.stem for p in files(tmp_path)] == [key(0), key(3), key(4), key(9)]
    assert sum(p.stat().st_size for p in files(tmp_path)) <= 10_000


def test_a_file_in_use_is_not_evicted_though_the_bound_is_passed(tmp_path: Path) -> None:
    mine, other = Cache(tmp_path, 5000), Cache(tmp_path, 5000)
    held = mine.get(key(0), ".mp4", fill(4000))  # type: ignore[arg-type]
    os.utime(held, ns=(0, 0))
    for n in range(1, 2 * PINS):
        other.get(key(n), ".mp4", fill(4000))  # type: ignore[arg-type]
    assert held.read_bytes() == b"x" * 4000
    mine.release()
    other.get(key(99), ".mp4", fill(4000))  # type: ignore[arg-type]
    assert not held.exists()


def test_a_path_is_let_go_after_a_number_of_further_ones(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1)
    first = cache.get(key(0), "", fill(10))  # type: ignore[arg-type]
    for n in range(1, PINS):
        cache.get(key(n), "", fill(10))  # type: ignore[arg-type]
    assert first.exists()
    for n in range(PINS, PINS + 2):
        cache.get(key(n), "", fill(10))  # type: ignore[arg-type]
    assert not first.exists()


def test_a_fill_that_fails_leaves_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)

    def broken(target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        cache.get(key(1), ".mp4", broken)
    assert files(tmp_path) == []
    assert cache.get(key(1), ".mp4", fill(3)).read_bytes() == b"xxx"  # type: ignore[arg-type]


def test_a_file_of_another_size_than_listed_is_fetched_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)
    path = cache.get(key(1), ".mp4", fill(3), 3)  # type: ignore[arg-type]
    path.write_bytes(b"damaged")
    assert cache.get(key(1), ".mp4", fill(3), 3).read_bytes() == b"xxx"  # type: ignore[arg-type]


def test_many_threads_fetch_an_entry_once(tmp_path: Path) -> None:
    fetched: list[int] = []

    def slow(target: Path) -> None:
        fetched.append(1)
        time.sleep(0.1)
        target.write_bytes(b"whole")

    found: list[bytes] = []

    def worker() -> None:
        found.append(Cache(tmp_path, 10**6).get(key(1), ".mp4", slow).read_bytes())

    threads = [threading.Thread(target=worker) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"whole"] * 12
    assert len(fetched) == 1


CHILD = """
import sys, time
from pathlib import Path
from s2v.datapipe.sources.cache import Cache
folder, mode = Path(sys.argv[1]), sys.argv[2]
def fill(target):
    with open(folder / "fetches", "a") as log:
        log.write("x")
    target.write_bytes(b"half")
    print("filling", flush=True)
    time.sleep(60 if mode == "hang" else 0.2)
    target.write_bytes(b"whole")
path = Cache(folder, 10**6).get("ab" * 20, ".mp4", fill)
assert path.read_bytes() == b"whole"
"""


def child(folder: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), mode], stdout=subprocess.PIPE
    )


def test_processes_fetch_an_entry_once(tmp_path: Path) -> None:
    children = [child(tmp_path, "go") for _ in range(2)]
    assert [process.wait(60) for process in children] == [0] * 2
    assert (tmp_path / "fetches").read_text() == "x"


def test_a_process_killed_while_fetching_blocks_nobody_and_leaves_no_half_file(
    tmp_path: Path,
) -> None:
    victim = child(tmp_path, "hang")
    assert victim.stdout is not None
    victim.stdout.readline()
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    left = [p for p in tmp_path.glob("ab/*") if p.name.startswith(".")]
    assert len(left) == 1
    path = Cache(tmp_path, 10**6).get("ab" * 20, ".mp4", fill(5))  # type: ignore[arg-type]
    assert path.read_bytes() == b"xxxxx"
    assert [p for p in tmp_path.glob("ab/*") if p.name.startswith(".")] == []


def test_eviction_and_use_by_many_threads_never_lose_a_file_between_path_and_open(
    tmp_path: Path,
) -> None:
    """A bound of two files, six threads that each want all of ten: every read finds its bytes."""
    wrong: list[object] = []

    def worker(seed: int) -> None:
        cache = Cache(tmp_path, 2000)
        try:
            for turn in range(40):
                n = (turn * 7 + seed * 3) % 10
                path = cache.get(key(n), ".bin", lambda t, n=n: t.write_bytes(bytes([n]) * 1000))  # type: ignore[misc]
                time.sleep(0.001)
                if path.read_bytes() != bytes([n]) * 1000:
                    wrong.append(n)
        except OSError as error:
            wrong.append(error)
        finally:
            cache.release()

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
