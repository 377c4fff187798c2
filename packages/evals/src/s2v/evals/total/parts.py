"""Parts of OpenS2V's total that were measured elsewhere, and all of them put together.

Several parts need what cannot run here (YOLO-World, Q-Align, GPT-4o). Their values come in three
forms: OpenS2V's own result files, a JSON file of values per video, and single figures.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from s2v.evals.errors import EvalError
from s2v.evals.opens2v import RANGES, WEIGHTS, Domain, Failures, Version, missing, normalised
from s2v.evals.opens2v import total as weighed

VERSIONS: Final[tuple[Version, ...]] = ("v1.0", "v1.1")
FAILURES: Final[tuple[Failures, ...]] = ("published", "zeros")
_MAX_BYTES: Final = 50_000_000

_SCRIPTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "Aesthetics": (("aesthetic_score.json", "aes_score"),),
    "Motion": (("motionscore.json", "motion_fb"), ("motion_amplitude.json", "motion_fb")),
    "MotionAmplitude": (("motion_amplitude.json", "motion_fb"), ("motionscore.json", "motion_fb")),
    "MotionSmoothness": (("motion_smoothness.json", "motion_smoothness"),),
    "FaceSim": (("facesim.json", "cur_score"),),
    "GmeScore": (("gmescore.json", "gme_score"),),
    "NexusScore": (("nexusscore.json", "nexus_score"), ("nexusscore.json", "retrieval_score")),
}
"""Part -> file and key of OpenS2V's scripts, v1.1's and v1.0's; the first that is there counts."""
_NATURAL: Final = tuple(f"naturalscore_{n}.json" for n in (1, 2, 3))
_ONE_PERSON: Final = ("singlehuman", "singleface", "faceobj", "humanobj")
_ONLY_FACES: Final = ("singleface", "multiface")


@dataclass(frozen=True)
class Part:
    """One part of the total.

    Attributes:
        origin: protocol, file, or ``given``.
        scores: convention for failures -> 0 to 1.
        videos: expected; None for a single figure, which does not say.
        without: of these, without a value; None likewise.
    """

    origin: str
    scores: Mapping[Failures, float]
    videos: int | None = None
    without: int | None = None

    @classmethod
    def of_values(cls, name: str, origin: str, values: Sequence[float | None]) -> Part:
        """From raw values, one per expected video."""
        return cls(
            origin,
            {how: normalised(name, values, how) for how in FAILURES},
            len(values),
            sum(v is None for v in values),
        )


@dataclass(frozen=True)
class Totals:
    """What the parts add up to.

    Attributes:
        totals: version -> convention for failures -> 0 to 1; without the versions that lack a part.
        missing: version -> names of the parts it lacks.
        unused: given parts that no version asked for needs.
    """

    totals: Mapping[Version, Mapping[Failures, float]]
    missing: Mapping[Version, tuple[str, ...]]
    unused: tuple[str, ...]


def add_up(parts: Mapping[str, Part], versions: Iterable[Version], domain: Domain) -> Totals:
    """Every total that the parts allow.

    Args:
        parts: by the leaderboard's names.
        versions: of the weights.
        domain: likewise.
    """
    asked = tuple(versions)
    lacking = {version: missing(parts, version, domain) for version in asked}
    totals: dict[Version, dict[Failures, float]] = {
        version: {
            how: weighed({n: p.scores[how] for n, p in parts.items()}, version, domain)
            for how in FAILURES
        }
        for version in asked
        if not lacking[version]
    }
    needed = {name for version in asked for name in WEIGHTS[version, domain]}
    return Totals(totals, lacking, tuple(sorted(set(parts) - needed)))


def known(name: str) -> str:
    """The name of a part.

    Raises:
        EvalError: no such part; the nearest one is named.
    """
    if name not in RANGES:
        near = difflib.get_close_matches(name, RANGES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RANGES)}"
        raise EvalError(f"OpenS2V has no part {name!r}; {hint}")
    return name


def from_arguments(said: Sequence[str]) -> dict[str, Part]:
    """Parts given as ``NAME=VALUE``, 0 to 1 or with a percent sign.

    Raises:
        EvalError: another form, an unknown part, a value out of range, a part given twice.
    """
    found: dict[str, Part] = {}
    for one in said:
        name, sign, text = one.partition("=")
        if not sign or not name or not text:
            raise EvalError(f"--part {one!r}: expected NAME=VALUE, as GmeScore=0.6766")
        if known(name) in found:
            raise EvalError(f"--part {name} is given twice")
        percent = text.endswith("%")
        try:
            value = float(text.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            raise EvalError(f"--part {one!r}: {text!r} is not a number") from None
        found[name] = _figure(value, f"--part {one!r}", "given")
    return found


def _figure(value: float, where: str, origin: str) -> Part:
    if not (math.isfinite(value) and 0 <= value <= 1):
        hint = f"; {value:g}% is a percentage" if 1 < value <= 100 else ""
        raise EvalError(f"{where}: {value:g} is not a normalised part from 0 to 1{hint}")
    return Part(origin, dict.fromkeys(FAILURES, value))


def from_file(path: Path) -> dict[str, Part]:
    """Parts of a JSON file: ``{"GmeScore": 0.68, "NexusScore": [0.013, null]}``.

    A number is a normalised part. A list, or an object with ids as keys, has one raw value per
    expected video, null where there is none.

    Raises:
        EvalError: unreadable, not such an object, an unknown part, a value that is no number.
    """
    found: dict[str, Part] = {}
    for name, content in _read(path).items():
        where = f"{path}: {name}"
        try:
            known(name)
        except EvalError as error:
            raise EvalError(f"{path}: {error}") from error
        if isinstance(content, dict):
            content = list(content.values())  # noqa: PLW2901 # both forms mean the same
        if isinstance(content, list):
            if not content:
                raise EvalError(f"{where}: no value in it; leave the part out")
            values = [None if v is None else _number(v, where) for v in content]
            found[name] = Part.of_values(name, path.name, values)
        else:
            found[name] = _figure(_number(content, where), where, path.name)
    if not found:
        raise EvalError(f"{path}: no part in it; known: {', '.join(RANGES)}")
    return found


def from_scripts(folder: Path) -> dict[str, Part]:
    """Parts of the folder in which OpenS2V's scripts leave their results.

    A video that any file names is expected in every part that its category has, so that one which
    a script dropped is a failure and not forgotten. Opinions that are no number ("error") are left
    out of the mean of the three; a video with none has no value.

    Raises:
        EvalError: no such folder, none of its files, another format.
    """
    if not folder.is_dir():
        raise EvalError(f"{folder}: no such folder; expected the results of OpenS2V's scripts")
    wanted = {file for choices in _SCRIPTS.values() for file, _ in choices} | set(_NATURAL)
    read = {file: _read(folder / file) for file in sorted(wanted) if (folder / file).is_file()}
    if not read:
        raise EvalError(f"{folder}: holds none of {', '.join(sorted(wanted))}")
    videos = sorted({video for content in read.values() for video in content})
    found: dict[str, Part] = {}
    for name, choices in _SCRIPTS.items():
        for file, key in choices:
            if any(_has(entry, key) for entry in read.get(file, {}).values()):
                value = _script_value(read[file], key, folder / file)
                values = [value(video) for video in videos if _applies(name, video)]
                found[name] = Part.of_values(name, file, values)
                break
    if any(file in read for file in _NATURAL):
        runs = [read[file] for file in _NATURAL if file in read]
        values = [_opinion([run.get(video) for run in runs]) for video in videos]
        found["NaturalScore"] = Part.of_values("NaturalScore", "naturalscore_*.json", values)
    return found


def _has(entry: object, key: str) -> bool:
    return isinstance(entry, dict) and key in entry


def _script_value(
    content: Mapping[str, Any], key: str, path: Path
) -> Callable[[str], float | None]:
    def value(video: str) -> float | None:
        entry = content.get(video)
        if not isinstance(entry, dict) or entry.get(key) is None:
            return None
        number = _number(entry[key], f"{path}: {video}: {key}")
        return abs(number) if key == "motion_fb" else number

    return value


def _applies(name: str, video: str) -> bool:
    """Whether OpenS2V's scripts measure a part on the videos of a category."""
    if name == "FaceSim":
        return any(word in video for word in _ONE_PERSON)
    return name != "NexusScore" or not video.startswith(_ONLY_FACES)


def _opinion(answers: Sequence[object]) -> float | None:
    numbers = []
    for answer in answers:
        try:
            number = float(answer) if isinstance(answer, str | int | float) else math.nan
        except ValueError:
            continue
        if 1 <= number <= 5:
            numbers.append(number)
    return sum(numbers) / len(numbers) if numbers else None


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvalError(f"{where}: {json.dumps(value)[:40]} is not a number")
    return float(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EvalError(f"{path}: {path.stat().st_size} bytes; more than such a file has")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise EvalError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise EvalError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
