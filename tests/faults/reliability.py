"""Write docs/reliability.md: the damage corpus through our pipeline and through two others.

    make reliability

The others run in environments of their own (tests/benchmarks/peers/peer_environments.py). All
are held to the rules of ``damage_verdict.judge``, by an independent decode of what they emitted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts, no package
sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "peers"))

import peer_tools
from damage_corpus import MEMBERS, make_corpus
from damage_run import run_ours, shard_clips
from damage_verdict import Clip, Judgement, Outcome, decode, judge
from generated import machine, replace_generated
from peer_environments import peer

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
SPLIT = {"split_duration": 2, "keep_original_sample": False}
EXACT = {"ffmpeg_extra_args": "-c:v libx264 -preset veryfast -crf 23 -c:a aac"}

Outcomes = dict[str, Outcome]


def peers(files: Sequence[Path], folder: Path) -> dict[str, Outcomes]:
    """What the other tools make of the files, by tool and file name."""
    detect, juicer = peer("scenedetect"), peer("data-juicer")
    by_tool = {
        "PySceneDetect": {
            path.name: peer_tools.scenedetect_split(
                detect, path, folder / "scenedetect" / path.name
            )
            for path in files
        }
    }
    duration = "video_split_by_duration_mapper"
    for title, operator, options in (
        ("Data-Juicer, by scene", "video_split_by_scene_mapper", {}),
        ("Data-Juicer, by duration", duration, {**SPLIT, **EXACT, "batch_size": 1}),
        ("Data-Juicer, by duration, default batch", duration, {**SPLIT, **EXACT}),
    ):
        left = peer_tools.data_juicer(
            juicer, files, folder / f"data-juicer-{len(by_tool)}", operator, options
        )
        by_tool[title] = {Path(path).name: found for path, found in left.items()}
    return {
        title: {
            name: Outcome(
                [Clip(path, seconds=seconds) for path, seconds in one.clips],
                one.refusal,
                code=one.code,
                logged=one.logged,
            )
            for name, one in found.items()
        }
        for title, found in by_tool.items()
    }


def main() -> int:
    """Run all tools, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="leave the page as it is")
    parser.add_argument("--keep", type=Path, help="folder for what is made; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s2v-reliability-") as scratch:
        folder = options.keep or Path(scratch)
        files = make_corpus(folder)
        (folder / "ours").mkdir(exist_ok=True)
        outcomes = {"s2v-data": run_ours(folder / "inputs", folder / "ours", models=True)}
        shards = shard_clips(folder / "ours" / "run", folder / "ours" / "shard-clips")
        outcomes |= peers(files, folder)
        text = table(outcomes, shards)
    print(text)
    if not options.print:
        replace_generated(PAGE, "corpus", text)
    ours = {member.name: judge(member, outcomes["s2v-data"][member.name]) for member in MEMBERS}
    wrong = [n for n, one in ours.items() if not (one.right and one.sound and one.accounted)]
    for name in wrong:
        print(f"{name}: not as it should be: {ours[name]}", file=sys.stderr)
    return 1 if wrong else 0


def table(outcomes: Mapping[str, Outcomes], shards: Sequence[Clip]) -> str:
    """The figures as Markdown."""
    judged = {
        tool: {member.name: judge(member, found[member.name]) for member in MEMBERS}
        for tool, found in outcomes.items()
    }
    shown = [tool for tool in judged if not tool.endswith("default batch")]
    lines = [_conditions(), "", "| tool | accounted for | right | clips that decode as declared |"]
    lines.append("|---|---|---|---|")
    for tool, found in judged.items():
        lines.append(f"| {tool} | {_share(found, 'accounted')} | {_share(found, 'right')} "
                     f"| {_clips(found.values())} |")  # fmt: skip
    sound = sum(decode(clip).sound for clip in shards)
    lines += ["", f"Of ours besides: {sound} of {len(shards)} clips in the shards."]
    lines += ["", "| damage | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for member in MEMBERS:
        cells = [_cell(judged[tool][member.name]) for tool in shown]
        lines.append(f"| {member.what} (`{member.name}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _conditions() -> str:
    pinned = {**peer("scenedetect").versions(), **peer("data-juicer").versions()}
    return (
        f"Measured on {machine()}; s2v-data {version('s2v-datapipe')}, PySceneDetect "
        f"{pinned['scenedetect']} (OpenCV {pinned['opencv-python']}), Data-Juicer "
        f"{pinned['py-data-juicer']} (PyAV {pinned['av']}), one ffmpeg for all: "
        f"imageio-ffmpeg {version('imageio-ffmpeg')}."
    )


def _share(found: Mapping[str, Judgement], what: str) -> str:
    return f"{sum(getattr(one, what) for one in found.values())} of {len(found)}"


def _clips(found: Iterable[Judgement]) -> str:
    clips = [clip for one in found for clip in one.clips]
    return f"{sum(clip.sound for clip in clips)} of {len(clips)}"


def _cell(one: Judgement) -> str:
    return ("✓ " if one.right and one.sound and one.accounted else "✗ ") + one.words


if __name__ == "__main__":
    sys.exit(main())
