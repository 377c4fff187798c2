"""How videos are sampled: solver, levels, guidance, with the paper's and the release's presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from s2v.model.config_types import Positive, Rate, Size, Strict

#: What the paper and the released code sample with; a preset's values stand where no other is
#: given. The paper's shift is not published, so its preset leaves it.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "solver": "euler", "steps": 50, "first_level": 1.0, "whole_timesteps": False,
        "image_scale": 3.0, "text_scale": 7.5, "order": "image-then-text", "schedule": "const",
    },
    "release": {
        "solver": "unipc", "steps": 50, "shift": 5.0, "first_level": 0.999,
        "whole_timesteps": True, "image_scale": 5.0, "text_scale": 7.5,
        "order": "image-then-text", "schedule": "const",
    },
}  # fmt: skip


class SampleConfig(Strict):
    """Solver, levels, guidance (paper: Euler, 50 steps, image 3, text 7.5) and what is written."""

    preset: Literal["paper", "release"] | None = None
    solver: Literal["euler", "unipc"] = "euler"
    steps: Size = 50
    shift: Positive = 1.0
    #: The first noise level before the shift: 1, or Wan's 0.999.
    first_level: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    #: The network is told ``floor(1000 t) / 1000``, as Wan's scheduler does.
    whole_timesteps: bool = False
    image_scale: float = 3.0
    text_scale: float = 7.5
    #: ``neg + w_img (pos_i - neg) + w_txt (pos_it - pos_i)`` (paper, release), or text first:
    #: ``neg + w_txt (pos_t - neg) + w_img (pos_it - pos_t)``.
    order: Literal["image-then-text", "text-then-image"] = "image-then-text"
    #: ``linear``: scales move to their ends as noise goes; ``switch``: they jump below
    #: ``switch_level``. An end that is not given stays.
    schedule: Literal["const", "linear", "switch"] = "const"
    image_scale_end: float | None = None
    text_scale_end: float | None = None
    switch_level: Rate = 0.5
    #: One call of the network per branch, or one call for all three.
    branches: Literal["sequential", "batched"] = "sequential"
    negative_prompt: str = ""
    #: Text drawn into every frame; empty: none.
    mark: Annotated[str, Field(max_length=60)] = ""
    #: Base address of an OpenAI-compatible server that rewrites prompts; empty: off.
    rewriter_url: str = ""
    rewriter_model: str = ""
    rewriter_timeout_s: Positive = 60.0
    weights: Literal["ema", "model"] = "ema"
    #: In which the network computes. ``bfloat16`` halves its memory; the release uses it, with
    #: the time vector in float32, as here.
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, data: Any) -> Any:
        preset = data.get("preset") if isinstance(data, Mapping) else None
        return {**PRESETS[preset], **data} if preset in PRESETS else data
