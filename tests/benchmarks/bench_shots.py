"""What the shot stage finds and what it costs, beside PySceneDetect's own command line.

    python tests/benchmarks/bench_shots.py [--network] [--write] [--only cost]

Finding: on the films of tests/datapipe/shots_truth.py, whose every transition is known. Cost: CPU
seconds on a stretch of *Big Buck Bunny*, all entries by turns in processes of their own, so that a
machine under load slows all of them alike. ``--network`` adds TransNetV2, minutes on a CPU;
``--write`` puts the tables into docs/shots.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datapipe"))
import shots_truth as truth
from generated import machine, replace_generated

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media import ffmpeg

PAGE = Path(__file__).resolve().parents[2] / "docs" / "shots.md"
START_S, SECONDS = 60, 80

Found = tuple[list[int], list[tuple[int, int]]]

_PLAIN = """
import av, sys
with av.open(sys.argv[1]) as c:
    s = c.streams.video[0]
    s.thread_type = "NONE"
    s.codec_context.thread_count = 1
    print(sum(1 for _ in c.decode(s)))
"""
_DRAFT = """
import sys
from s2v.datapipe.base.media.scan import scan
print(sum(1 for _ in scan(sys.argv[1], draft=True)))
"""
_OURS = """
import sys
from s2v.datapipe.measure.scan import scan_window
from s2v.datapipe.measure.shots import ShotSettings
print(len(scan_window(sys.argv[1], 0, 0, ShotSettings().model_dump()).pts_us))
"""
_STILLS = """
import sys
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.measure.scan import scan_window
from s2v.datapipe.measure.shots import ShotSettings
kept = FrameSettings().model_dump()
print(len(scan_window(sys.argv[1], 0, 0, ShotSettings().model_dump(), sampling=kept).pts_us))
"""
_NOTHING = {
    "plain": "import av",
    "draft": "from s2v.datapipe.base.media.scan import scan",
    "ours": "from s2v.datapipe.measure.scan import scan_window\n"
    "from s2v.datapipe.measure.shots import ShotSettings",
}


def ours(path: Path) -> Found:
    """Our cuts and gradual transitions."""
    from s2v.datapipe.measure.scan import scan_window
    from s2v.datapipe.measure.shots import ShotSettings

    found = scan_window(str(path), 0, 0, ShotSettings().model_dump())
    return found.cuts, [(span.first, span.last) for span in found.gradual]


def with_network(path: Path) -> Found:
    """Ours united with TransNetV2's, as the stage does."""
    import numpy as np

    from s2v.datapipe.backends.transnet import shots
    from s2v.datapipe.measure.scan import scan_window
    from s2v.datapipe.measure.shots import ShotSettings, boundaries, not_flashes
    from s2v.datapipe.measure.timeline import unite

    net = shots({"device": "cpu"}, "roles.shots", {})
    net.load()
    found = scan_window(str(path), 0, 0, ShotSettings().model_dump(), net.frame_size)
    cuts, gradual = boundaries(net.score(np.asarray(found.small)))
    spans = [*((span.first, span.last) for span in found.gradual), *gradual]
    united = unite(found.cuts, not_flashes(cuts, found.refused))
    return [c for c in united if not any(a <= c <= b for a, b in spans)], spans


def scenedetect(path: Path) -> Found:
    """The command line with the same two detectors and thresholds."""
    with tempfile.TemporaryDirectory() as folder:
        command = _scenedetect(path, Path(folder))
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        [listing] = Path(folder).glob("*.csv")
        rows = list(csv.reader(listing.open(encoding="utf-8")))[2:]
    return sorted({int(row[1]) - 1 for row in rows if int(row[1]) > 1}), []


def _scenedetect(path: Path, folder: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("scenedetect")), "--quiet", "-i", str(path),
        "-o", str(folder), "-m", "8", "detect-content", "-t", "27", "detect-adaptive", "-t", "3",
        "list-scenes", "-q",
    ]  # fmt: skip


def finding(tools: dict[str, Callable[[Path], Found]], folder: Path) -> str:
    """The table of recall and false alarms per kind, on the report films."""
    lines = [
        "| detector | hard cuts | F1 | dissolves | fades | wipes | mixed frames kept | false "
        "alarms | of which flash / pan |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, detect in tools.items():
        seen: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        kept = mixed = alarms = wrong_cuts = trapped = 0
        for case in truth.cases():
            if case.set != "report":
                continue
            cuts, gradual = detect(case.build(folder))
            scores, false = truth.score(case, cuts, gradual)
            for kind, score in scores.items():
                seen[kind][0] += score.found
                seen[kind][1] += score.known
                kept, mixed = kept + score.kept, mixed + score.mixed
            alarms += len(false)
            trapped += sum(any(a < q and b >= p for _, p, q in case.traps()) for a, b in false)
            if case.name.endswith(("cuts", "traps")):
                wrong_cuts += len(false)
        hit, known = seen["cut"]
        f1 = 2 * hit / (hit + known + wrong_cuts)
        cells = [f"{seen[k][0]} / {seen[k][1]}" for k in ("cut", "dissolve", "fade", "wipe")]
        lines.append(
            f"| {name} | {cells[0]} | {f1:.3f} | {' | '.join(cells[1:])} | {kept} / {mixed} | "
            f"{alarms} | {trapped} |"
        )
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def cost(repetitions: int, folder: Path) -> str:
    """The table of CPU seconds, medians, with what starting Python and imports takes apart."""
    film = folder / "stretch.mp4"
    if not film.exists():
        command = [
            ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y", "-ss", str(START_S),
            "-i", str(asset("bbb-film")), "-t", str(SECONDS), "-c", "copy", "-an", str(film),
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=120)
    python = [sys.executable, "-c"]
    commands: dict[str, list[str]] = {
        "plain decode (PyAV, one thread)": [*python, _PLAIN, str(film)],
        "small frames (`scan(draft=True)`)": [*python, _DRAFT, str(film)],
        "**the whole pass** (`scan_window`)": [*python, _OURS, str(film)],
        "the same, and the clips' sampled frames kept as JPEG": [*python, _STILLS, str(film)],
        "PySceneDetect's command line": _scenedetect(film, folder / "scenes"),
        "start: plain": [*python, _NOTHING["plain"]],
        "start: draft": [*python, _NOTHING["draft"]],
        "start: ours": [*python, _NOTHING["ours"]],
        "start: scenedetect": [_scenedetect(film, folder)[0], "version"],
    }
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repetitions + 1):
        order = list(commands.items())
        for name, command in order if turn % 2 == 0 else reversed(order):
            seconds = _cpu(command)
            if turn:  # the first warms the caches
                spent[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    starts = [medians[f"start: {n}"] for n in ("plain", "draft", "ours", "ours", "scenedetect")]
    names = list(commands)[: len(starts)]
    net = [medians[name] - start for name, start in zip(names, starts, strict=True)]
    frames = _frames(film)
    lines = [
        "| what | CPU-s | spread | without start | ms a frame | times plain |",
        "|---|---|---|---|---|---|",
    ]
    for name, seconds in zip(names, net, strict=True):
        spread = f"{min(spent[name]):.2f}-{max(spent[name]):.2f}"
        lines.append(
            f"| {name} | {medians[name]:.2f} | {spread} | {seconds:.2f} | "
            f"{1e3 * seconds / frames:.2f} | {seconds / net[0]:.2f} |"
        )
    lines.append(
        f"\n{frames} frames of 1280x720 H.264 ({SECONDS} s), {machine()}, {repetitions} "
        f"repetitions. Per CPU-second the pass is {net[-1] / net[2]:.2f} times as fast as "
        f"PySceneDetect's command line ({medians[names[-1]] / medians[names[2]]:.2f} times with "
        "both programs' start)."
    )
    return "\n".join(lines)


def _cpu(command: Sequence[str]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    with subprocess.Popen(
        list(command), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        said = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {said.decode(errors='replace')[-1000:]}")
    return used.ru_utime + used.ru_stime


def _frames(film: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(film)], check=True, capture_output=True, timeout=300
    )
    return int(done.stdout)


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=("finding", "cost"))
    parser.add_argument("--folder", type=Path, help="keeps the films between runs")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tools: dict[str, Callable[[Path], Found]] = {
            "PySceneDetect's command line": scenedetect,
            "**ours**": ours,
        }
        if options.network:
            tools["ours and TransNetV2"] = with_network
        tables = {}
        if options.only != "cost":
            tables["finding"] = finding(tools, folder)
        if options.only != "finding":
            tables["cost"] = cost(options.repetitions, folder)
    for name, table in tables.items():
        print(f"\n{table}")
        if options.write:
            replace_generated(PAGE, name, table)
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
