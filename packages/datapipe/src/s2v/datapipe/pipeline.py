"""Which stage follows which: figure 3 of the paper, readable in one screen.

sources -> probe -> shots -> frames -> quality -> caption -> phrases -> detect
                                    -> segment -> faces -> embed        (measure)
        -> subjects -> in-pairs, retrieval, verification -> scenarios   (select)
        -> clips cut, shards, index, card                              (write)
"""

from __future__ import annotations

from s2v.datapipe.config import Settings
from s2v.datapipe.engine.runner import StageRun
from s2v.datapipe.engine.stage import Stage
from s2v.datapipe.measure.caption import CaptionStage
from s2v.datapipe.measure.detect import DetectStage
from s2v.datapipe.measure.embed import EmbedStage
from s2v.datapipe.measure.faces import FaceStage
from s2v.datapipe.measure.frames import FrameStage
from s2v.datapipe.measure.phrases import PhraseStage
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.measure.quality import QualityStage
from s2v.datapipe.measure.segment import SegmentStage
from s2v.datapipe.measure.shots import ShotStage
from s2v.datapipe.roles import Roles

#: Stage -> the stages whose rows it reads.
UPSTREAM = {
    "probe": (),
    "shots": ("probe",),
    "frames": ("shots",),
    "quality": ("frames",),
    "caption": ("frames",),
    "phrases": ("caption",),
    "detect": ("phrases", "frames"),
    "segment": ("detect",),
    "faces": ("detect",),
    "embed": ("segment",),
}


def stages(settings: Settings, roles: Roles) -> list[Stage]:
    """All measuring stages in order."""
    gates = settings.gates
    return [
        ProbeStage(),
        ShotStage(settings.shots),
        FrameStage(settings.frames),
        QualityStage(roles.text_regions, roles.safety),
        CaptionStage(roles.captioner, gates),
        PhraseStage(roles.phrases, gates),
        DetectStage(roles.detector, gates),
        SegmentStage(roles.segmenter, settings.segment, gates),
        FaceStage(roles.faces, gates),
        EmbedStage(roles.embedder, gates),
    ]


def plan(settings: Settings, roles: Roles) -> dict[str, StageRun]:
    """Stages with their fingerprints; a changed stage changes all that follow it."""
    runs: dict[str, StageRun] = {}
    for stage in stages(settings, roles):
        upstream = {name: runs[name].fingerprint for name in UPSTREAM[stage.name]}
        runs[stage.name] = StageRun(stage, stage.fingerprint(upstream))
    return runs


#: Stages that work on whole sources, on windows of them, and on slices of clips.
BY_SOURCE = ("probe",)
BY_WINDOW = ("shots",)
BY_CLIPS = ("frames", "quality", "caption", "phrases", "detect", "segment", "faces", "embed")
