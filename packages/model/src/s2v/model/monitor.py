"""Samples while training: the same captions, references and noise every time, and their scores.

The network is sampled with the averaged weights on a small fixed set of held-out samples. What the
videos are worth is for an evaluator to say that the caller brings: this package knows none.
Whether they *copy* their references is asked beside whether they show them: a network that is
trained on in-pairs alone gains in likeness by pasting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from s2v.datapipe.base.shards import Sample, SampleMeta, ShardIndex
from s2v.model.config import Config
from s2v.model.data.encoding import Encoders
from s2v.model.data.held import held
from s2v.model.data.reader import Pixels, Reader
from s2v.model.data.references import Reference, fit_and_pad, forms
from s2v.model.errors import ModelError
from s2v.model.output import write_sheet
from s2v.model.parallel.kernels import attention_kernels
from s2v.model.provenance import write_video
from s2v.model.sample import MAX_REFERENCES, condition_of, generate, latent_shape
from s2v.model.validate import Gather, alone


@dataclass(frozen=True)
class Sampled:
    """One video and what it was made from.

    Attributes:
        id: of the held-out sample.
        pair: its pair type.
        frames: ``[F, H, W, 3]`` RGB.
        fps: frames per second.
        prompt: the caption.
        references: the shown ones as they are stored: crop and mask.
        meta: the held-out sample's own JSON, with phrases and classes of its references.
    """

    id: str
    pair: str
    frames: Pixels
    fps: float
    prompt: str
    references: tuple[Reference, ...]
    meta: SampleMeta


#: From videos to numbers by name, means over those that a measure applies to; what could not be
#: measured is absent. ``jobs/`` supplies one made of ``packages/evals``.
Evaluator = Callable[[Sequence[Sampled]], Mapping[str, float]]


@dataclass(frozen=True)
class _Case:
    sample: Sample
    meta: SampleMeta
    references: tuple[Reference, ...]
    images: tuple[Pixels, ...]


class Monitor:
    """Prepared once, run every so many steps.

    Args:
        config: of the run; its ``validation`` and ``sample`` sections.
        index: of the shards.
        encoders: of the run.
        evaluate: scores; None writes the videos alone.

    Raises:
        ModelError: nothing with a reference is held out.
    """

    def __init__(
        self,
        config: Config,
        index: ShardIndex,
        encoders: Encoders,
        evaluate: Evaluator | None = None,
    ) -> None:
        self.config, self._encoders, self._evaluate = config, encoders, evaluate
        data = config.data.model_copy(update={"variants": 1})
        reader = Reader(data)
        self.cases: list[_Case] = []
        one = config.data.model_copy(update={"sizes": (), "phases": ()})
        found = [h.sample for h in held(index, one, len(index)) if h.sample.row["references"]]
        for sample in fixed_set(found):
            if len(self.cases) == config.validation.samples:
                break
            try:
                clip = reader.read(sample)
            except ModelError:
                continue  # the next one; validation's quarantine names it
            shown = tuple(clip.references[:MAX_REFERENCES])
            images = tuple(_told(reference) for reference in shown)
            self.cases.append(_Case(sample, clip.meta, shown, images))
        if not self.cases:
            raise ModelError(f"{index.folder}: no held-out sample with a reference can be read")
        self._null = encoders.text.encode(config.sample.negative_prompt)

    @torch.no_grad()
    def run(
        self,
        model: nn.Module,
        out: Path,
        rank: int = 0,
        world: int = 1,
        gather: Gather = alone,
    ) -> dict[str, float]:
        """Sample and score.

        Every rank makes every ``world``-th sample, all call the network equally often; the first
        rank scores.

        Args:
            model: with the weights that are to be sampled.
            out: receives ``<id>.mp4`` and ``<id>.sheet.png``.
            rank, world: of this process among those that see different samples.
            gather: joins the ranks' lists.

        Returns:
            What the evaluator says, on rank 0; else nothing.
        """
        was = model.training
        model.eval()
        rounds = -(-len(self.cases) // world)
        made = []
        for n in range(rounds):
            place = n * world + rank
            case = self.cases[min(place, len(self.cases) - 1)]
            frames = self._frames(model, case)
            if place < len(self.cases):
                self._write(out, case, frames)
                made.append((place, frames))
        model.train(was)
        everything = sorted(gather(made), key=lambda pair: int(pair[0]))
        if rank or self._evaluate is None:
            return {}
        videos = [self._sampled(self.cases[place], frames) for place, frames in everything]
        return dict(sorted(self._evaluate(videos).items()))

    def _frames(self, model: nn.Module, case: _Case) -> Pixels:
        condition = condition_of(case.meta.caption, case.images, self._encoders, self.config)
        with attention_kernels(self.config.parallel):
            latents = generate(
                model,
                condition,
                self._null,
                shape=latent_shape(self._encoders, self.config),
                config=self.config.sample,
                noise_key=(self.config.validation.seed, case.sample.id),
            )
        return self._encoders.video.decode(latents.float().cpu())

    def _write(self, out: Path, case: _Case, frames: Pixels) -> None:
        d = self.config.data
        record: dict[str, Any] = {
            "generator": "s2v-model",
            "id": case.sample.id,
            "prompt": case.meta.caption,
            "seed": self.config.validation.seed,
            "references": [r.where.rpartition("member ")[2] for r in case.references],
        }
        write_video(out / f"{case.sample.id}.mp4", frames, d.fps, record)
        padded = [fit_and_pad(image, (d.height, d.width), d.pad) for image in case.images]
        write_sheet(out / f"{case.sample.id}.sheet.png", padded, frames)

    def _sampled(self, case: _Case, frames: Pixels) -> Sampled:
        return Sampled(
            id=case.sample.id,
            pair=str(case.sample.row["pair_type"]),
            frames=np.ascontiguousarray(frames),
            fps=self.config.data.fps,
            prompt=case.meta.caption,
            references=case.references,
            meta=case.meta,
        )


def fixed_set(samples: Sequence[Sample]) -> list[Sample]:
    """Cross-pairs first, in order of id; one per clip, and one per caption and references.

    Clips of one shot may share both; a network would answer them alike.
    """
    clips: set[str] = set()
    questions: set[tuple[str, ...]] = set()
    chosen = []
    for one in sorted(samples, key=lambda s: (s.row["pair_type"] != "cross", s.id)):
        references = (m["sha256"] for m in one.row["members"] if m["suffix"].startswith("ref"))
        question = (str(one.row["caption"]), *references)
        if one.row["clip_id"] in clips or question in questions:
            continue
        clips.add(str(one.row["clip_id"]))
        questions.add(question)
        chosen.append(one)
    return chosen


def _told(reference: Reference) -> Pixels:
    """What a user would bring: the subject on white where a mask is known."""
    made = forms(reference)
    return made.get("white", made["crop"])
