"""Which stage follows which: figure 3 of the paper, readable in one screen.

sources -> probe -> shots -> frames -> overlay -> quality -> caption -> phrases
                 -> detect -> check, marks, segment -> faces -> embed   (measure)
        -> subjects -> in-pairs, retrieval -> verify -> scenarios       (select)
        -> clips cut, shards, index, card                              (write)
"""

from __future__ import annotations

from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import Need
from s2v.datapipe.engine.stage import Stage, StageRun
from s2v.datapipe.measure.brand import MarkStage
from s2v.datapipe.measure.caption import CaptionStage
from s2v.datapipe.measure.check import CheckStage
from s2v.datapipe.measure.detect import DetectStage
from s2v.datapipe.measure.embed import EmbedStage
from s2v.datapipe.measure.faces import FaceStage
from s2v.datapipe.measure.frames import FrameStage
from s2v.datapipe.measure.overlay import OverlayStage
from s2v.datapipe.measure.phrases import PhraseStage
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.measure.quality import QualityStage
from s2v.datapipe.measure.segment import SegmentStage
from s2v.datapipe.measure.shots import ShotStage
from s2v.datapipe.measure.verify import VerifyStage
from s2v.datapipe.roles import Roles, Served

#: Stage -> the stages whose rows it reads.
UPSTREAM = {
    "probe": (),
    "shots": ("probe",),
    "frames": ("shots",),
    "overlay": ("frames",),
    "quality": ("frames", "overlay"),
    "caption": ("frames", "overlay"),
    "phrases": ("caption",),
    "detect": ("phrases", "frames"),
    "check": ("detect",),
    "marks": ("detect",),
    "segment": ("detect",),
    "faces": ("detect",),
    "embed": ("segment",),
}


#: Stage -> the roles it holds; they say what an actor of it is booked with.
HOLDS = {
    "shots": ("shots",),
    "overlay": ("text_regions",),
    "quality": ("text_regions", "safety", "aesthetics"),
    "caption": ("captioner",),
    "phrases": ("phrases",),
    "detect": ("detector",),
    "check": ("checker",),
    "marks": ("text_reader",),
    "segment": ("segmenter",),
    "faces": ("faces",),
    "embed": ("embedder",),
    "verify": ("verifier",),
}


def stages(settings: Settings, roles: Roles) -> list[Stage]:
    """All measuring stages in order."""
    gates = settings.gates
    return [
        ProbeStage(),
        ShotStage(settings.shots, roles.shots, settings.frames),
        FrameStage(settings.frames),
        OverlayStage(settings.overlay, roles.text_regions, settings.shots.scan_short_side),
        QualityStage(settings.quality, roles.text_regions, roles.safety, roles.aesthetics),
        CaptionStage(roles.captioner, gates, settings.caption),
        PhraseStage(roles.phrases, gates),
        DetectStage(roles.detector, gates),
        CheckStage(roles.checker, settings.segment, gates),
        MarkStage(roles.text_reader, settings.segment, gates),
        SegmentStage(roles.segmenter, settings.segment, gates),
        FaceStage(roles.faces, gates),
        EmbedStage(roles.embedder, gates),
    ]


def plan(settings: Settings, roles: Roles) -> dict[str, StageRun]:
    """Stages with their fingerprints; a changed one changes all that measure after it."""
    runs: dict[str, StageRun] = {}
    for stage in stages(settings, roles):
        upstream = {name: runs[name].fingerprint for name in UPSTREAM[stage.name]}
        held = tuple(n for n in HOLDS.get(stage.name, ()) if getattr(roles, n) is not None)
        need = _need(held, settings, roles)
        runs[stage.name] = StageRun(stage, stage.fingerprint(upstream), need, held)
    return {**runs, "verify": verify_run(settings, roles)}


def verify_run(settings: Settings, roles: Roles) -> StageRun:
    """The stage that works on pairs; no other changes it.

    The id of every question says what it was made of, so an answer outlives a stage measured anew.
    """
    stage = VerifyStage(roles.verifier)
    held = ("verifier",) if roles.verifier is not None else ()
    return StageRun(stage, stage.fingerprint({}), _need(held, settings, roles), held)


def stage_models(roles: Roles) -> dict[str, str | None]:
    """Stage -> ids of the models it holds, joined; ``None`` for a stage without any."""
    held = {s: [getattr(roles, name) for name in names] for s, names in HOLDS.items()}
    return {s: "; ".join(m.model_id for m in models if m) or None for s, models in held.items()}


def _need(held: tuple[str, ...], settings: Settings, roles: Roles) -> Need:
    """What an actor with these roles is booked with: the most of what each asks for.

    Memory adds up, as it holds all of them.
    """
    if not held:
        return Need()
    models = [getattr(roles, name) for name in held]
    needs = [getattr(settings.roles, name).need() for name in held]
    return Need(
        cpus=max(need.cpus for need in needs),
        gpus=max(need.gpus for need in needs),
        memory_gb=sum(need.memory_gb or 0.0 for need in needs) or None,
        actors=min((need.actors for need in needs if need.actors), default=None),
        served=any(isinstance(m, Served) and m.concurrency > 1 for m in models),
    )


#: Stages that work on whole sources, on windows of them, and on slices of clips; and on pairs,
#: after a selection (:mod:`s2v.datapipe.verifying`).
BY_SOURCE = ("probe",)
BY_WINDOW = ("shots",)
BY_CLIPS = (
    "frames",
    "overlay",
    "quality",
    "caption",
    "phrases",
    "detect",
    "check",
    "marks",
    "segment",
    "faces",
    "embed",
)
BY_PAIRS = ("verify",)
