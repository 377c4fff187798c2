"""A world of pairs in which every subject has a number drawn in its box.

A double of a server reads the two numbers off the two crops it was sent, and its answer follows
from them; so a verdict that landed on another pair says so itself.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import vlm_double
from synthetic_tables import World, film_world
from vlm_double import Behaviour, Double, Handler, draw_code, pictures, read_code

from s2v.datapipe import pipeline, verifying
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.config import Settings
from s2v.datapipe.engine import runner as runner_module
from s2v.datapipe.engine.errors import raise_failure
from s2v.datapipe.engine.pools import Node
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.measuring import Measured
from s2v.datapipe.pair.select import select
from s2v.datapipe.roles import PairVerifier, Roles
from s2v.datapipe.verifying import Verified, select_verified

CLASS_OF = {"person": "human", "creature": "animal", "thing": "product"}
OPTIONS = {"concurrency": 8, "first_wait_s": 0.01, "timeout_s": 10, "tries": 12}


def code_of(detection: str) -> int:
    """The number drawn in a detection's box: 15 bits, and a frame of one bit is never plain."""
    return int(stable_hash([detection], 8), 16) & 0xFFFF


def truth(one: int, other: int) -> tuple[str, str]:
    """What the double says of two numbers, whichever way round."""
    mixed = int(stable_hash([str(code) for code in sorted((one, other))], 8), 16)
    return ("yes", "no", "unsure")[mixed % 3], ("yes", "yes", "no")[mixed // 7 % 3]


def paired_world(run: Path) -> World:
    """The known film; its frames lie in the run folder with the numbers drawn in."""
    world = film_world()
    for row in world.rows["phrases"]:
        row["class"] = CLASS_OF[row["bank"]]
    world.finish()
    for row in world.rows["detections"]:
        x0, y0, x1, y1 = (int(v) for v in row["box"])
        picture = world.pictures[row["frame_id"]]
        picture[y0:y1, x0:x1] = draw_code(picture[y0:y1, x0:x1], code_of(row["detection_id"]))
    world.store_frames(run)
    return world


def settings_of(run: Path, url: str, **other: Any) -> Settings:
    """A configuration whose only model is the verifier at ``url``."""
    served = {"backend": "vlm", "urls": [url], "model": vlm_double.MODEL, **OPTIONS}
    return Settings.model_validate(
        {
            "folder": str(run),
            "engine": {"cpus": 2, "unit_clips": 8},
            "select": {"detection": {"min_side": 64}},
            "roles": {"verifier": {**served, **other}},
        }
    )


def roles_of(settings: Settings) -> Roles:
    """The verifier, as the registry makes it; what measures clips is not needed for pairs."""
    backend, given = settings.roles.chosen()["verifier"]
    assert backend == "vlm"
    options = {**given, "urls": given["urls"][0]}
    model = vlm_double.made("verifier", options.pop("urls"), **options)
    empty = cast("Any", None)
    return Roles(empty, empty, empty, empty, empty, empty, verifier=cast("PairVerifier", model))


def measured_of(world: World, settings: Settings, roles: Roles) -> Measured:
    """The world's tables as :class:`s2v.datapipe.measuring.Measuring` would give them."""
    tables: dict[str, pa.Table] = world.tables()
    verify = pipeline.verify_run(settings, roles).fingerprint
    return Measured(tables, fingerprints={"frames": "f", "verify": verify})


def answer(one: int, other: int) -> str:
    """The double's whole answer to two numbers."""
    same, elsewhere = truth(one, other)
    note = f"codes {one} {other}"
    return json.dumps({"note": note, "same_identity": same, "different_context": elsewhere})


def codes(request: dict[str, Any]) -> tuple[int, int]:
    """The numbers in the two crops of a request; the frames come before each."""
    shown = pictures(request)
    assert len(shown) == 4
    return read_code(shown[1]), read_code(shown[3])


def judges(seed: int, trouble: float = 0.0, longest_s: float = 0.03) -> Behaviour:
    """Judges by the numbers, late, in no order, and often only when asked again."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def behave(request: dict[str, Any], handler: Handler) -> None:
        with lock:
            delay, luck = dice.random() * longest_s, dice.random()
        time.sleep(delay)
        if luck < trouble / 4:
            handler.send('{"error": {"message": "busy"}}', 429)
        elif luck < 2 * trouble / 4:
            handler.drop()
        elif luck < 3 * trouble / 4:
            handler.say('{"note": "no verdict"}')
        elif luck < trouble:
            handler.send('{"error": {"message": "starting"}}', 503)
        else:
            handler.say(answer(*codes(request)))

    return behave


def strayed(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Verdicts that do not speak of their own two detections."""
    bad = []
    for row in rows:
        one, other = (code_of(row[f"{side}_detection_id"]) for side in ("target", "reference"))
        said = (row["same_identity"], row["different_context"])
        if row["note"] != f"codes {one} {other}" or said != truth(one, other):
            bad.append(str(row["verdict_id"]))
    return bad


def in_this_process(patch: Callable[[Any, str, Any], None]) -> None:
    """Let the engine's own runner work here instead of in actors of Ray.

    Args:
        patch: ``monkeypatch.setattr``, or ``setattr`` in a process of its own.
    """

    def here(
        run: Path, pools: Any, stages: list[StageRun], items: list[Any], **other: Any
    ) -> Iterator[Any]:
        runner = UnitRunner(str(run), stages, other["retry_quarantine"], session="one")
        for item in items:
            (told,) = runner({"item": [json.dumps(item)], "report": ["{}"]})["report"]
            report = json.loads(told)
            raise_failure(f"unit {report['unit']}", report["failed"])
            yield report

    def once(run: Path, stages: list[StageRun]) -> Iterator[str]:
        for stage in stages:
            with stage.naming_its_models():
                stage.stage.setup()
            yield stage.stage.name

    patch(verifying, "run_phase", here)
    patch(verifying, "load_once", once)
    patch(verifying, "start_ray", lambda cpus: None)
    patch(verifying, "cluster", lambda: [Node(2, 0, 8)])
    patch(runner_module, "FIRST_WAIT_S", 0.01)


def verified(run: Path, world: World, url: str, **other: Any) -> Verified:
    model = {name: other.pop(name) for name in ("revision", "prompts", "tries") if name in other}
    settings = settings_of(run, url, **model)
    roles = roles_of(settings)
    measured = measured_of(world, settings, roles)
    return select_verified(settings, roles, measured, quiet=True, **other)


def verdicts(made: Verified) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.tables["verdicts"].to_pylist()
    return rows


def pairs(made: Verified) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.selection.pairs.to_pylist()
    return rows


def by_rules(world: World, run: Path) -> set[frozenset[str]]:
    """Pairs that the rules alone accept."""
    selection = select(world.tables(), settings_of(run, "http://127.0.0.1:9").select)
    return {ends(row) for row in selection.pairs.to_pylist() if row["accepted"]}


def ends(row: dict[str, Any]) -> frozenset[str]:
    return frozenset((row["target_subject_id"], row["reference_subject_id"]))


def asked(server: Double) -> Counter[tuple[int, int]]:
    return Counter(codes(request) for request in server.requests if "response_format" in request)
