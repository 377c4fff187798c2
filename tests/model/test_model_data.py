"""From shards to batches: order, mixture, reasons, quarantine, references."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import autoencoder
from s2v.model.config import Config, DataConfig
from s2v.model.data.augment import change
from s2v.model.data.collate import choose, collate
from s2v.model.data.features import Encoders, FeatureStore
from s2v.model.data.index import select, stride, windows
from s2v.model.data.mix import next_source, shares
from s2v.model.data.plan import Plan, permuted
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine, begin_list
from s2v.model.data.reader import Reader
from s2v.model.data.references import FORMS, Reference, fit_and_pad, forms
from s2v.model.encoders import ColourGrid, HashedWords
from s2v.model.errors import ModelError


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5))
def test_the_mixture_is_off_by_less_than_one_sample_at_every_prefix(weights: list[int]) -> None:
    share = shares({f"s{i}": w / 100 for i, w in enumerate(weights)})
    drawn = dict.fromkeys(share, 0)
    for n in range(1, 200):
        drawn[next_source(share, drawn)] += 1
        assert all(abs(drawn[s] - share[s] * n) < 1 for s in share)


def test_plain_stride_scheduling_would_be_off_by_more() -> None:
    """Why the quota rule is there: without it one source runs ahead."""
    share = shares({"a": 0.85, "b": 0.05, "c": 0.05, "d": 0.05})
    drawn = dict.fromkeys(share, 0)
    worst = 0.0
    for n in range(1, 40):
        drawn[min(share, key=lambda s: ((drawn[s] + 1) / share[s], s))] += 1
        worst = max(worst, *(abs(float(drawn[s] - share[s] * n)) for s in share))
    assert worst > 1


@pytest.mark.parametrize("size", [1, 2, 5, 64, 97])
def test_every_sample_comes_once_per_epoch_in_another_order_each_time(size: int) -> None:
    orders = [[permuted(i, size, 7, "in", epoch) for i in range(size)] for epoch in range(3)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    if size > 5:
        assert orders[0] != orders[1] != orders[2]
        assert orders[0] != list(range(size))


def _plan(seed: int = 1) -> Plan:
    sources = {"in": [f"i{n}" for n in range(10)], "cross": [f"c{n}" for n in range(3)]}
    return Plan(Pool.of_ids(sources), [{"in": 0.7, "cross": 0.3, "image": 0.5}], seed)


def test_the_stream_visits_each_sample_once_per_epoch_and_goes_on_from_its_state() -> None:
    plan = _plan()
    assert plan.left_out == ["image"]  # the shards have none: the others keep their ratio
    draws = [plan.next() for _ in range(100)]
    for source, size in (("in", 10), ("cross", 3)):
        own = [d for d in draws if d.source == source]
        for epoch in range(len(own) // size):
            assert Counter(d.sample_id for d in own if d.epoch == epoch).most_common(1)[0][1] == 1
            assert len({d.sample_id for d in own if d.epoch == epoch}) == size
    assert [d.number for d in draws] == list(range(100))
    other = _plan()
    for _ in range(37):
        other.next()
    state = other.state()
    assert len(str(state)) < 170  # a count per source, however long it ran
    resumed = _plan()
    resumed.restore(state)
    assert [resumed.next() for _ in range(63)] == draws[37:]


def test_an_epoch_is_not_the_one_before_again() -> None:
    """The same order every epoch would be one more thing to learn by heart."""
    pool = Pool.of_ids(
        {"in": [f"{n:02d}" for n in range(40)], "cross": [f"c{n}" for n in range(40)]}
    )
    plan = Plan(pool, [{"in": 0.5, "cross": 0.5}], 0)
    draws = [plan.next() for _ in range(240)]
    orders = [
        tuple(int(d.sample_id.strip("c")) for d in draws if (d.source, d.epoch) == (source, epoch))
        for source in ("in", "cross")
        for epoch in range(3)
    ]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len(set(orders)) == 6


def test_a_changed_order_is_not_silently_continued() -> None:
    state = _plan().state()
    with pytest.raises(ModelError, match="changed since the checkpoint"):
        _plan(seed=2).restore(state)


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [(60, 24.0, 3), (49, 24.0, 3), (48, 24.0, 2), (33, 24.0, 2), (32, 24.0, None), (17, 8.0, 1),
     (16, 8.0, None), (100, 30.0, 4), (200, 59.94, 7), (17, 5.0, 1)],
)  # fmt: skip
def test_the_stride_fits_the_clip_or_the_clip_is_left_out(
    frames: int, fps: float, expected: int | None
) -> None:
    config = DataConfig(frames=17, fps=8.0)
    assert stride(frames, fps, config) == expected
    for window in windows(frames, fps, DataConfig(frames=17, fps=8.0, variants=4)):
        assert window.start >= 0
        assert window.start + 16 * window.stride < frames


def test_every_row_of_the_index_is_used_or_has_its_reason(
    drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    index = ShardIndex.open(drawn_shards)
    train = select(index, tiny().data, "train")
    assert train.dropped == {"clip shorter than the window": 1, "held out": 4, "split test": 1}
    assert len(train.samples) + sum(train.dropped.values()) == len(index) == 18
    assert {s.row["heldout"] for s in select(index, tiny().data, "heldout").samples} == {True}
    only_cross = tiny("data.mix={ cross = 1.0 }").data
    assert {s.row["pair_type"] for s in select(index, only_cross, "train").samples} == {"cross"}
    with pytest.raises(ModelError, match="no sample for train among 18: 13 clip shorter"):
        select(index, tiny("data.frames=101").data, "train")


def _store(config: Config, shards: Path, folder: Path) -> tuple[FeatureStore, ShardIndex]:
    index = ShardIndex.open(shards)
    reader = Reader(config.data, folder / "pixels")
    videos = [reader.read(s).videos[0] for s in select(index, config.data, "train").samples[:4]]
    encoders = Encoders(HashedWords(8), ColourGrid(), autoencoder.fit(videos))
    return FeatureStore(reader, encoders, folder / "features"), index


def test_the_reader_takes_the_frames_that_the_window_names(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    drawing: Callable[[int, int, int], np.ndarray],
    tmp_path: Path,
) -> None:
    """The drawn shape moves right: the decoded window must show its speed and start."""
    config = tiny()
    sample = select(ShardIndex.open(drawn_shards), config.data, "train").samples[0]
    assert sample.row["frames"] == 40
    (window,) = windows(40, 24.0, config.data)
    assert (window.start, window.stride) == ((40 - 25) // 2, 3)
    clip = Reader(config.data).read(sample)
    assert clip.videos[0].shape == (9, 48, 80, 3)
    identity, number = (int(part) for part in sample.id.split("-")[1:])
    drawn = drawing(identity, number, 40)[window.start :: window.stride][:9]
    error = np.abs(clip.videos[0].astype(int) - drawn).mean(axis=(1, 2, 3))
    shifted = np.abs(clip.videos[0][1:].astype(int) - drawn[:-1]).mean(axis=(1, 2, 3))
    assert error.max() < 6
    assert (shifted > error[1:]).all()
    # From the pixel cache the same frames come back.
    cached = Reader(config.data, tmp_path)
    assert np.array_equal(cached.read(sample).videos[0], clip.videos[0])
    assert np.array_equal(cached.read(sample).videos[0], clip.videos[0])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cut_or_changed_shard_costs_its_samples_not_the_run(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    broken = tmp_path / "shards"
    shutil.copytree(drawn_shards, broken)
    config = tiny()
    index = ShardIndex.open(broken)
    samples = select(index, config.data, "train").samples
    in_pairs = [s for s in samples if s.row["pair_type"] == "in"]
    path = broken / "in-000000.tar"
    data = bytearray(path.read_bytes())
    for sample, suffix in ((in_pairs[1], "mp4"), (in_pairs[3], "ref0.jpg")):
        member = next(m for m in sample.row["members"] if m["suffix"] == suffix)
        data[member["offset"] + 30] ^= 0xFF  # one byte in the middle of a member
    path.write_bytes(bytes(data))
    store, _ = _store(config, drawn_shards, tmp_path / "cache")
    quarantine = Quarantine(config.data.fuse)
    kept = store.prepare(samples, quarantine)
    assert {f.sample_id for f in quarantine.faults} == {in_pairs[1].id, in_pairs[3].id}
    assert len(kept) == len(samples) - 2
    for fault in quarantine.faults:
        assert "in-000000.tar" in fault.message
        assert "sha256" in fault.message
    begin_list(tmp_path / "quarantine.jsonl", quarantine.faults, 0)
    assert (tmp_path / "quarantine.jsonl").read_text().count("\n") == 2


def test_broken_shards_stop_the_run_by_the_fuse(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    broken = tmp_path / "shards"
    shutil.copytree(drawn_shards, broken)
    config = tiny("data.fuse=3")
    for tar in broken.glob("*.tar"):
        with tar.open("r+b") as file:
            file.truncate(2000)
    store, _ = _store(config, drawn_shards, tmp_path / "cache")
    samples = select(ShardIndex.open(broken), config.data, "train").samples
    with pytest.raises(ModelError, match=r"3 samples in a row .*cut short"):
        store.prepare(samples, Quarantine(config.data.fuse))


def test_a_reference_has_its_forms_and_keeps_its_aspect() -> None:
    crop = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), np.bool_)
    mask[5:15, 10:14] = True
    made = forms(Reference(crop, mask, "here"))
    assert tuple(made) == FORMS
    assert (made["white"][~mask] == 255).all()
    assert (made["white"][mask] == 100).all()
    assert made["masked"].shape == (10, 4, 3)
    padded = fit_and_pad(crop, (48, 80), "white")
    rows, columns = np.nonzero((padded != 255).any(axis=2))
    assert (rows.min(), rows.max()) == (0, 47)
    assert columns.max() - columns.min() + 1 == 72  # 30/20 of 48, not stretched to 80
    assert columns.min() == 4  # centred
    with pytest.raises(ModelError, match="empty"):
        forms(Reference(crop, np.zeros((20, 30), np.bool_), "here"))


def test_variants_move_a_clip_and_its_references_alike(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Mirroring and colours: what the reference says must stay true of the video."""
    config = tiny("data.variants=6", "data.augment={ hue = 0.5, brightness = 0.0, contrast = 0.0 }")
    store, index = _store(config, drawn_shards, tmp_path)
    sample = next(s for s in index if s.row["pair_type"] == "in" and s.row["frames"] == 40)
    clip = Reader(config.data).read(sample)
    features = store.get(sample)
    assert features.video.shape[0] == features.references.shape[0] == 6
    code = store.encoders.video
    torch.testing.assert_close(features.video[0], code.encode(clip.videos[0]))  # itself
    mirrored = set()
    for v in range(1, 6):
        move = change(config.data.augment, sample.id, v)
        assert move is not None
        mirrored.add(move.mirrored)
        torch.testing.assert_close(features.video[v], code.encode(move(clip.videos[v])))
        # The drawn shape has one colour: in clip and reference it is moved to the same one.
        of_crop = np.median(move(clip.references[0].crop)[12:20, 12:20], axis=(0, 1))
        shape = np.abs(clip.videos[v].astype(int) - clip.references[0].crop[16, 16]).sum(-1) < 60
        shape = np.flip(shape, 2) if move.mirrored else shape
        assert np.abs(np.median(move(clip.videos[v])[shape], axis=0) - of_crop).max() < 30
        assert not torch.equal(features.references[v], features.references[0])
    assert mirrored == {True, False}
    assert change(config.data.augment, sample.id, 0) is None
    grey = np.full((2, 2, 3), 120, np.uint8)
    assert np.abs(move(grey).astype(int) - 120).max() <= 1  # hue and saturation leave grey alone


def test_forms_are_chosen_at_their_odds_and_batches_are_padded_with_masks(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    store, index = _store(tiny(), drawn_shards, tmp_path)
    samples = {s.row["references"]: s for s in index if s.row["pair_type"] == "cross"}
    one, two = store.get(samples[1]), store.get(samples[2])
    assert one.references.shape[:3] == (1, 1, 3)
    odds = {"crop": 3.0, "white": 1.0}  # masked: never
    seen: Counter[int] = Counter()
    for n in range(400):
        item = choose(("x", n), one, odds, 0)
        seen[
            next(f for f in range(3) if torch.equal(item.references[0], one.references[0, 0, f]))
        ] += 1
    assert seen[2] == 0
    assert seen[0] / 400 == pytest.approx(0.75, abs=0.07)
    batch = collate([choose(("a", 0), one, odds, 0), choose(("b", 1), two, odds, 0)])
    assert batch.condition.reference_mask.tolist() == [[True, False], [True, True]]
    assert not batch.condition.references[0, :, 1].any()
    assert batch.video.shape == (2, 16, 3, 6, 10)


def test_memory_stays_bounded_and_evicted_features_come_back_from_disk(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, index = _store(tiny(), drawn_shards, tmp_path)
    samples = select(index, tiny().data, "train").samples
    first = store.get(samples[0])
    monkeypatch.setattr("s2v.model.data.features.MEMORY_BYTES", 3 * first.bytes)
    for sample in samples:
        store.get(sample)
    assert len(store._memory) <= 3
    again = store.get(samples[0])
    assert again is not first
    assert torch.equal(again.video, first.video)


def test_features_of_other_encoders_or_changed_members_are_not_reused(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    store, index = _store(config, drawn_shards, tmp_path)
    sample = index[0]
    first = store.get(sample)
    again = FeatureStore(Reader(config.data), store.encoders, tmp_path / "features")
    assert all(torch.equal(a, vars(again.get(sample))[n]) for n, a in vars(first).items())
    other = Encoders(HashedWords(8, width=128), ColourGrid(), store.encoders.video)
    assert FeatureStore(Reader(config.data), other, tmp_path).folder != store.folder
    sample.row["members"][0]["sha256"] = "0" * 64
    fresh = FeatureStore(Reader(config.data), store.encoders, tmp_path / "features")
    with pytest.raises(ModelError, match="sha256 differs"):
        fresh.get(sample)  # not served from the old entry
