"""Measuring while training: comparable numbers of the averaged weights, and no trace of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import checkpoint, networks
from s2v.model.config import Config
from s2v.model.data.held import held
from s2v.model.errors import ModelError
from s2v.model.mmdit import Widths
from s2v.model.monitor import Monitor, Sampled
from s2v.model.progress import quiet
from s2v.model.provenance import verify
from s2v.model.run import Run, fit_autoencoder
from s2v.model.sample import condition_of, generate, latent_shape
from s2v.model.train import train
from s2v.model.validate import Validator, averaged

ON = ("validation.every=2", "validation.levels=4", "validation.limit=4")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


class Prepared:
    """A network of random weights and what a validator needs."""

    def __init__(self, config: Config, shards: Path, folder: Path) -> None:
        self.run = Run(folder)
        self.run.begin(config)
        fit_autoencoder(config, shards, self.run)
        self.store = self.run.store(config)
        e = self.store.encoders
        self.null = e.text.encode("")
        torch.manual_seed(0)
        self.model = networks.build(config, Widths(e.video.channels, e.text.width, e.image.width))
        for p in self.model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        self.index = ShardIndex.open(shards)
        self.config = config

    def validator(self) -> Validator:
        return Validator(self.config, self.index, self.store, self.null)


@pytest.fixture
def prepared(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> Callable[..., Prepared]:
    def make(*overrides: str) -> Prepared:
        return Prepared(tiny(*ON, *overrides), drawn_shards, tmp_path / "prepared")

    return make


def test_two_measurements_of_the_same_weights_agree_to_the_last_bit(
    prepared: Callable[..., Prepared],
) -> None:
    p = prepared()
    first = p.validator().run(p.model)
    torch.manual_seed(99)
    np.random.seed(99)  # whoever draws from it must not change the measure
    assert p.validator().run(p.model) == first
    assert set(first["by_level"]) == {"0.1250", "0.3750", "0.6250", "0.8750"}
    assert first["loss"] == pytest.approx(np.mean(list(first["by_level"].values())))


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_measures_the_same(
    world: int, prepared: Callable[..., Prepared]
) -> None:
    """Four samples over three ranks: two ranks repeat one, and it does not count twice."""
    p = prepared()
    alone = p.validator().run(p.model)
    parts: list[list[Any]] = []

    def keep(rows: list[Any]) -> list[Any]:
        parts.append(rows)
        return rows if rows else [{"id": "", "pair": "", "references": "", "size": "",
                                   "losses": [[0.0] * 4]}]  # fmt: skip

    for rank in range(world):
        p.validator().run(p.model, rank, world, keep)
    joined = p.validator().run(p.model, 0, world, lambda _: [r for part in parts for r in part])
    assert joined == alone
    assert sorted(len(part) for part in parts) == ([2, 2] if world == 2 else [1, 1, 2])


def test_every_rank_calls_the_network_equally_often(prepared: Callable[..., Prepared]) -> None:
    """A sharded network gathers its weights in each call: one call too few hangs all ranks."""
    p = prepared("validation.limit=3")
    calls = []
    for rank in range(2):
        before = len(calls)
        hook = p.model.register_forward_hook(lambda *_: calls.append(1))
        p.validator().run(p.model, rank, 2)
        hook.remove()
        assert len(calls) - before == 2  # two rounds of one batch of four levels


def test_branches_hide_what_their_names_say(prepared: Callable[..., Prepared]) -> None:
    branches = '["text+image","image","text","neither"]'
    p = prepared(f"validation.branches={branches}")
    found = p.validator().run(p.model)["by_branch"]
    assert len({round(v, 9) for v in found.values()}) == 4
    only = prepared('validation.branches=["neither"]')
    blank = only.validator().run(only.model)
    assert blank["by_branch"]["neither"] == pytest.approx(found["neither"], rel=1e-6)


def test_exchanged_weights_come_back_to_the_last_bit(prepared: Callable[..., Prepared]) -> None:
    model = prepared().model
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = {name: torch.randn_like(p) for name, p in own.items()}
    before = {name: w.clone() for name, w in average.items()}
    with pytest.raises(KeyboardInterrupt), averaged(model, average):  # noqa: PT012 - looked into
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name])
        raise KeyboardInterrupt
    for name, p in model.named_parameters():
        assert torch.equal(p, own[name])
        assert torch.equal(average[name], before[name])


def test_measuring_changes_nothing_of_the_training(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    plain = tiny("train.steps=5", "train.checkpoint_async=false")
    asked = tiny(
        "train.steps=5", "train.checkpoint_async=false", *ON, "validation.sample_every=4",
        "validation.samples=1",
    )  # fmt: skip
    seen: list[Sequence[Sampled]] = []

    def evaluate(videos: Sequence[Sampled]) -> dict[str, float]:
        seen.append(videos)
        return {"brightness": float(np.mean([v.frames.mean() for v in videos]))}

    train(plain, drawn_shards, tmp_path / "plain", quiet)
    train(asked, drawn_shards, tmp_path / "asked", quiet, evaluate=evaluate)
    one, two = lines(tmp_path / "plain"), lines(tmp_path / "asked")
    assert [x["loss"] for x in one] == [x["loss"] for x in two]
    weights = [
        checkpoint.load_weights(checkpoint.latest(tmp_path / run / "checkpoints"), "model")[0]  # type: ignore[arg-type]  # it was trained
        for run in ("plain", "asked")
    ]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert [x["step"] for x in two if "validation" in x] == [2, 4]
    measured = two[3]["validation"]
    assert set(measured["by_pair"]) == {"in"}  # the drawn shards hold in-pairs out
    assert measured["by_size"].keys() == {"9x48x80"}
    assert two[3]["scores"] == {"brightness": pytest.approx(float(seen[0][0].frames.mean()))}
    (video,) = (tmp_path / "asked").glob("samples/step-00000004/*.mp4")
    assert verify(video).record["prompt"] == "a shape moves"


def test_held_out_samples_alone_are_measured_pair_types_by_turns(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    index = ShardIndex.open(drawn_shards)
    data = tiny().data
    found = held(index, data, 10)
    assert found
    assert all(one.sample.row["heldout"] for one in found)
    assert [one.sample.id for one in held(index, data, 2)] == [o.sample.id for o in found[:2]]
    gone = tmp_path / "gone.jsonl"
    gone.write_text(
        json.dumps({"key_type": "sample_id", "key": found[0].sample.id, "reason": "asked",
                    "by": "them", "when": "2026-01-01"}) + "\n"
    )  # fmt: skip
    without = held(index, data.model_copy(update={"exclusions": (str(gone),)}), 10)
    assert {o.sample.id for o in found} - {o.sample.id for o in without} == {found[0].sample.id}
    # By what only the sample says of its references, too.
    subject = found[0].sample.meta().refs[0].subject_id
    gone.write_text(gone.read_text().replace("sample_id", "subject_id").replace(
        found[0].sample.id, subject
    ))  # fmt: skip
    without = held(index, data.model_copy(update={"exclusions": (str(gone),)}), 10)
    assert {o.sample.id for o in found} - {o.sample.id for o in without} == {found[0].sample.id}
    with pytest.raises(ModelError, match=r"no sample to validate on.*held out"):
        held(index, data.model_copy(update={"frames": 4001}), 10)


def test_a_monitor_samples_the_same_videos_on_any_number_of_processes(
    prepared: Callable[..., Prepared], tmp_path: Path
) -> None:
    p = prepared("validation.samples=2", "sample.steps=2")
    seen: list[list[Sampled]] = []

    def evaluate(videos: Sequence[Sampled]) -> dict[str, float]:
        seen.append(list(videos))
        return {"n": float(len(videos))}

    monitor = Monitor(p.config, p.index, p.store.encoders, evaluate)
    assert monitor.run(p.model, tmp_path / "one") == {"n": 2.0}
    made: list[Any] = []
    monitor.run(p.model, tmp_path / "two", 1, 2, lambda rows: made.extend(rows) or rows)
    monitor.run(p.model, tmp_path / "two", 0, 2, lambda rows: [*rows, *made])
    for one, two in zip(*seen, strict=True):
        assert one.id == two.id
        assert np.array_equal(one.frames, two.frames)
    assert {x.name for x in (tmp_path / "one").iterdir()} == {
        x.name for x in (tmp_path / "two").iterdir()
    }
    assert seen[0][0].references[0].mask is not None
    assert seen[0][0].frames.dtype == np.uint8


def test_a_monitors_noise_is_of_its_question(
    prepared: Callable[..., Prepared], tmp_path: Path
) -> None:
    """Worked out again from a sample's id: else all videos begin alike, and no two runs compare."""
    p = prepared("validation.samples=2", "sample.steps=2")
    seen: list[Sampled] = []

    def evaluate(videos: Sequence[Sampled]) -> dict[str, float]:
        seen.extend(videos)
        return {}

    monitor = Monitor(p.config, p.index, p.store.encoders, evaluate)
    monitor.run(p.model, tmp_path / "made")
    encoders, seed = p.store.encoders, p.config.validation.seed
    assert len(seen) == 2
    for made, case in zip(seen, monitor.cases, strict=True):
        latents = generate(
            p.model.eval(),
            condition_of(case.meta.caption, case.images, encoders, p.config),
            encoders.text.encode(p.config.sample.negative_prompt),
            shape=latent_shape(encoders, p.config),
            config=p.config.sample,
            noise_key=(seed, case.sample.id),
        )
        assert np.array_equal(made.frames, encoders.video.decode(latents))
