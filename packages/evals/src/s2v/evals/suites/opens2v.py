"""OpenS2V-Eval's own test set as a manifest.

Its JSON maps an id, as ``singleface_3``, to ``img_paths``, ``prompt`` and ``class_label``. The
evaluator's rule for faces is kept: of the categories with one person, the first reference whose
path names a man or a woman is the one that is measured; where there are several people, all are
marked, and FaceSim leaves the sample out, as the published numbers do.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from s2v.datapipe.base.ids import stable_hash
from s2v.evals.errors import EvalError
from s2v.evals.manifest import Reference, Sample, explain, read_text

SEED = 42
"""Of the one video per sample that the benchmark asks for."""

_ONE_PERSON = ("singlehuman", "singleface", "faceobj", "humanobj")
_PERSON = frozenset({"man", "woman"})
_CREATURES = frozenset(
    {
        *("animal", "bear", "bird", "butterfly", "cat", "chicken", "cow", "deer", "dog", "duck"),
        *("elephant", "fish", "fox", "giraffe", "hamster", "horse", "kitten", "lion", "monkey"),
        *("panda", "parrot", "penguin", "pig", "puppy", "rabbit", "sheep", "squirrel", "tiger"),
        *("turtle", "wolf", "zebra"),
    }
)
_MAX_BYTES = 50_000_000


class _Asked(BaseModel):
    # Newer files carry more keys; only these are used.
    model_config = ConfigDict(extra="ignore", frozen=True)

    img_paths: tuple[str, ...] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    class_label: tuple[str, ...] = ()


def load_opens2v(
    path: str | Path, out: str | Path, *, images: str | Path, videos: str | Path, model: str
) -> list[Sample]:
    """Samples of OpenS2V-Eval.

    Args:
        path: its JSON, as ``Open-Domain_Eval.json``.
        out: the manifest that will hold the samples; paths are relative to its folder.
        images: folder in which ``img_paths`` start.
        videos: folder with a model's ``<id>.mp4``.
        model: name in the manifest.

    Returns:
        One sample per id, in its order.

    Raises:
        EvalError: unreadable, another format, an id that is no file name, a path that leads out
            of ``images``.
    """
    file = Path(path)
    try:
        _, text = read_text(file, "OpenS2V-Eval file", _MAX_BYTES)
        asked = TypeAdapter(dict[str, _Asked]).validate_python(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise EvalError(f"{file}: not JSON: {error}") from error
    except ValidationError as error:
        raise EvalError(f"{file}: not OpenS2V-Eval's format: {explain(error)}") from error
    if not asked:
        raise EvalError(f"{file}: no sample in it")
    base = Path(out).resolve().parent
    return [
        _sample(file, key, asked[key], base, Path(images), Path(videos), model)
        for key in sorted(asked, key=_natural)
    ]


def _natural(key: str) -> tuple[str, int]:
    stem, _, number = key.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (key, -1)


def _sample(
    file: Path, key: str, one: _Asked, base: Path, images: Path, videos: Path, model: str
) -> Sample:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", key):
        raise EvalError(f"{file}: id {key!r} is no file name")
    scenario = _natural(key)[0]
    labels = [*one.class_label, *[""] * len(one.img_paths)]
    refs: list[Reference] = []
    for name, label in zip(one.img_paths, labels, strict=False):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise EvalError(f"{file}: {key}: image {name!r} leads out of the images' folder")
        what = _class(inside, label)
        named: dict[str, Any] = {"class": what}  # no name for a Python argument
        first = not any(ref.is_face for ref in refs)
        refs.append(
            Reference(
                path=_seen(images / inside, base),
                phrase=label or inside.parent.name,
                **named,
                is_face=what == "person" and (first or not scenario.startswith(_ONE_PERSON)),
            )
        )
    return Sample(
        sample_id=key,
        video=_seen(videos / f"{key}.mp4", base),
        prompt=one.prompt,
        refs=tuple(refs),
        seed=SEED,
        scenario=scenario,
        split="opens2v-eval",
        model=model,
        source="generated",
        reference_id=f"opens2v-{stable_hash(one.img_paths, 12)}",
    )


def _class(path: PurePosixPath, label: str) -> Literal["person", "creature", "thing"]:
    folders = {part.casefold().removeprefix("crop_") for part in path.parts[:-1]}
    if folders & _PERSON:
        return "person"
    words = {*folders, *label.casefold().split()}
    return "creature" if words & _CREATURES else "thing"


def _seen(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base)).as_posix()
