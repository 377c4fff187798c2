"""A poisoned input takes down neither its neighbours nor the process that reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import media_hostile as hostile
import numpy as np
import pytest
from media_corpus import FRAMES, Corpus

from s2v.datapipe.base.media import decode, isolated, sandbox
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.sandbox import close_workers, run_isolated, stream_isolated


def kind_of(function: object, *args: object, **limits: object) -> MediaErrorKind:
    with pytest.raises(MediaError) as caught:
        run_isolated(function, args, **limits)  # type: ignore[arg-type]  # forwarded
    return caught.value.kind


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_crash_is_an_error_of_its_file_and_the_next_file_is_read() -> None:
    with pytest.raises(MediaError) as caught:
        run_isolated(hostile.crash, ["evil.mp4"])
    assert caught.value.kind is MediaErrorKind.CRASH
    assert caught.value.path == "evil.mp4"
    assert "SIGSEGV" in caught.value.message
    assert not caught.value.transient, "it crashed twice: quarantine"
    assert run_isolated(hostile.ramp, [3]).tolist() == [0, 1, 2]


def test_a_hang_ends_in_time() -> None:
    start = time.monotonic()
    assert kind_of(hostile.hang, timeout_s=0.3, attempts=1) is MediaErrorKind.TIMEOUT
    assert kind_of(hostile.spin, timeout_s=0.3, attempts=1) is MediaErrorKind.TIMEOUT
    assert time.monotonic() - start < 20


def test_a_hung_worker_is_gone_with_its_encoder(tmp_path: Path) -> None:
    mark = tmp_path / "pids"
    kind = kind_of(hostile.endless_ffmpeg, str(mark), timeout_s=2, attempts=1)
    assert kind is MediaErrorKind.TIMEOUT
    assert all(wait_until_gone(int(pid)) for pid in mark.read_text().split())


def test_memory_is_bounded() -> None:
    for function, args in ((hostile.eat_memory, [4]), (hostile.eat_memory_in_opencv, [])):
        kind = kind_of(function, *args, memory_bytes=1 << 30)
        assert kind is MediaErrorKind.TOO_LARGE
    assert len(run_isolated(hostile.ramp, [1 << 20], memory_bytes=1 << 30)) == 1 << 20


def test_a_worker_killed_from_outside_is_the_machines_fault() -> None:
    with pytest.raises(MediaError) as caught:
        run_isolated(hostile.killed_from_outside)
    assert caught.value.kind is MediaErrorKind.TRANSIENT
    assert caught.value.transient


def test_one_stroke_of_bad_luck_costs_no_file(tmp_path: Path) -> None:
    assert run_isolated(hostile.crash_once, [str(tmp_path / "mark")]) == "second attempt"
    with pytest.raises(MediaError):
        run_isolated(hostile.crash_once, [str(tmp_path / "mark2")], attempts=1)


def test_a_worker_is_kept_after_success_and_replaced_after_damage() -> None:
    close_workers()
    first = run_isolated(hostile.pid)
    assert run_isolated(hostile.pid) == first
    assert kind_of(hostile.refuse, "x", "not_media") is MediaErrorKind.NOT_MEDIA
    assert run_isolated(hostile.pid) == first, "refused before decoding: as good as new"
    assert kind_of(hostile.refuse, "x", "corrupt") is MediaErrorKind.CORRUPT
    assert run_isolated(hostile.pid) != first
    assert wait_until_gone(first)


def test_a_worker_is_replaced_after_enough_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    close_workers()
    monkeypatch.setattr(sandbox, "TASKS_PER_WORKER", 2)
    pids = [run_isolated(hostile.pid) for _ in range(3)]
    assert pids[0] == pids[1] != pids[2]


def test_errors_come_back_as_they_were_raised() -> None:
    with pytest.raises(MediaError) as caught:
        run_isolated(hostile.refuse, ["a.mp4", "truncated"])
    assert (caught.value.kind, caught.value.path) == (MediaErrorKind.TRUNCATED, "a.mp4")
    with pytest.raises(RuntimeError, match=r"UnportableError: 1/2"):
        run_isolated(hostile.unportable)


def test_a_function_no_worker_can_import_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="module-level"):
        run_isolated(lambda: 1)
    with pytest.raises(ValueError, match="module-level"):
        run_isolated("no_colon")


def test_no_credentials_reach_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    close_workers()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("S2V_ASSETS", "/somewhere")
    seen = run_isolated(hostile.environment)
    close_workers()
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert seen["S2V_ASSETS"] == "/somewhere"
    assert seen["OMP_NUM_THREADS"] == "1"


def test_threads_have_workers_of_their_own() -> None:
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda n: run_isolated(hostile.ramp, [n]).sum(), range(30)))
    assert results == [n * (n - 1) // 2 for n in range(30)]
    close_workers()


def test_a_forked_process_does_not_share_its_parents_worker() -> None:
    here = run_isolated(hostile.pid)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(run_isolated(hostile.pid)).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    there = int(os.read(read, 100))
    os.close(read)
    assert there != here
    assert run_isolated(hostile.pid) == here
    assert wait_until_gone(there), "a worker ends with the process it serves"


def test_a_worker_does_not_outlive_a_killed_process(tmp_path: Path) -> None:
    mark = tmp_path / "pids"
    code = (
        "import media_hostile as h; from s2v.datapipe.base.media.sandbox import run_isolated;"
        f"run_isolated(h.endless_ffmpeg, [{str(mark)!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ) as process:
        deadline = time.monotonic() + 60
        while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert all(wait_until_gone(int(pid)) for pid in mark.read_text().split())


def test_streamed_items_come_in_order_with_the_report() -> None:
    report = []

    def follow() -> Iterator[int]:
        report.append((yield from stream_isolated(hostile.items, [50])))

    assert [int(item[0]) for item in follow()] == list(range(50))
    assert report == ["report"]


@pytest.mark.parametrize(
    ("then", "kind"), [("crash", MediaErrorKind.CRASH), ("hang", MediaErrorKind.TIMEOUT)]
)
def test_a_stream_that_breaks_is_an_error_after_its_last_item(
    then: str, kind: MediaErrorKind
) -> None:
    seen: list[np.ndarray] = []
    with pytest.raises(MediaError) as caught:
        seen.extend(stream_isolated(hostile.items, [5, then], timeout_s=2))
    assert [int(item[0]) for item in seen] == list(range(5))
    assert caught.value.kind is kind


def test_a_stream_left_early_spoils_no_later_call() -> None:
    stream = stream_isolated(hostile.items, [1000])
    next(stream)
    stream.close()
    assert run_isolated(hostile.ramp, [4]).tolist() == [0, 1, 2, 3]


def test_isolated_decoding_gives_what_direct_decoding_gives(corpus: Corpus) -> None:
    path = corpus["whole.mp4"]
    assert isolated.probe(path) == probe(path)
    times = [0, 500_000, 1_500_000]
    for (a, one), (b, two) in zip(
        isolated.frames_at(path, times), decode.frames_at(path, times), strict=True
    ):
        assert a == b
        np.testing.assert_array_equal(one, two)
    direct = decode.scan(path, short_side=48)
    both = zip(isolated.scan(path, short_side=48), direct, strict=True)
    count = 0
    for (a, one), (b, two) in both:
        assert a == b
        np.testing.assert_array_equal(one, two)
        count += 1
    assert count == FRAMES


def test_an_isolated_scan_of_a_cut_file_is_truncated_too(corpus: Corpus) -> None:
    seen: list[tuple[int, np.ndarray]] = []
    with pytest.raises(MediaError) as caught:
        seen.extend(isolated.scan(corpus["half.mp4"]))
    assert caught.value.kind is MediaErrorKind.TRUNCATED
    assert seen
