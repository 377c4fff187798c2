"""All encoders of a run: the embedded ones, and beside them those of a user's own weights."""

from __future__ import annotations

from functools import cached_property

from s2v.evals.encoders.curricular import CurricularFace
from s2v.evals.encoders.embedded import LightEncoders
from s2v.evals.encoders.face_pack import FacePack
from s2v.evals.encoders.flow import RaftFlow
from s2v.evals.encoders.gme import Gme
from s2v.evals.encoders.image_towers import (
    ImageTower,
    dino_tower,
    dinov2_tower,
    open_clip_tower,
)
from s2v.evals.encoders.judge import VisionJudge
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.quality import AestheticHead, MlpHead, MusiqQuality, linear_head
from s2v.evals.encoders.viclip import VideoClip
from s2v.evals.errors import EvalError


class Encoders(LightEncoders):
    """Each is made at first use and shared by the metrics.

    Args:
        weights: what the user has; by default nothing.
        judge: whom judged protocols ask; by default nobody.

    Raises:
        EvalError: at first use, when its weights are not named, missing or of another digest.
    """

    def __init__(self, weights: Weights | None = None, judge: VisionJudge | None = None) -> None:
        self.weights = weights or Weights()
        self._judge = judge

    @property
    def judge(self) -> VisionJudge:
        """The model that is asked.

        Raises:
            EvalError: no endpoint was named.
        """
        if self._judge is None:
            raise EvalError(
                "nobody to ask: name an endpoint and its model (--judge, --judge-model)"
            )
        return self._judge

    @cached_property
    def buffalo_l(self) -> FacePack:
        """SCRFD-10GF and ArcFace ResNet-50 on WebFace600K."""
        return FacePack(self.weights.path("buffalo_l"))

    @cached_property
    def antelopev2(self) -> FacePack:
        """SCRFD-10GF and ArcFace ResNet-100 on Glint360K."""
        return FacePack(self.weights.path("antelopev2"))

    @cached_property
    def ir101(self) -> CurricularFace:
        """CurricularFace."""
        return CurricularFace(self.weights.path("ir101"))

    @cached_property
    def viclip(self) -> VideoClip:
        """ViCLIP-L/14."""
        return VideoClip(self.weights.path("viclip"))

    @cached_property
    def open_clip(self) -> ImageTower:
        """The image tower of a CLIP, OpenAI's preprocessing."""
        return self._clip("open_clip")

    @cached_property
    def clip_b32(self) -> ImageTower:
        """CLIP ViT-B/32, VBench's preprocessing."""
        return self._clip("clip_b32", vbench=True)

    @cached_property
    def dinov2(self) -> ImageTower:
        """DINOv2."""
        return dinov2_tower(self.weights.path("dinov2"))

    @cached_property
    def dino(self) -> ImageTower:
        """DINO ViT-B/16, VBench's preprocessing."""
        return dino_tower(self.weights.path("dino"))

    @cached_property
    def aesthetic_linear(self) -> AestheticHead:
        """LAION's linear head on CLIP ViT-L/14, VBench's preprocessing."""
        tower = self._clip("clip_l14", vbench=True)
        return AestheticHead(tower, self.weights.path("aesthetic_linear"), linear_head())

    @cached_property
    def aesthetic_mlp(self) -> AestheticHead:
        """The improved aesthetic predictor on CLIP ViT-L/14, OpenAI's preprocessing."""
        return AestheticHead(self._clip("clip_l14"), self.weights.path("aesthetic_mlp"), MlpHead())

    @cached_property
    def musiq(self) -> MusiqQuality:
        """MUSIQ."""
        return MusiqQuality(self.weights.path("musiq"))

    @cached_property
    def gme(self) -> Gme:
        """GME on Qwen2-VL."""
        return Gme(self.weights.path("gme"), self.weights.files("gme"))

    @cached_property
    def raft(self) -> RaftFlow:
        """RAFT."""
        return RaftFlow(self.weights.path("raft"))

    def _clip(self, name: str, *, vbench: bool = False) -> ImageTower:
        weights = self.weights
        return open_clip_tower(
            weights.path(name), weights.entry(name).model, folder=weights.folder, vbench=vbench
        )
