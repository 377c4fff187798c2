"""A cache that forgets one thing a number depends on hands out yesterday's number as today's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2v.evals import cache
from s2v.evals.inspection import Inspected
from s2v.evals.manifest import Reference, Sample
from s2v.evals.metrics.base import MetricSpec
from s2v.evals.run import evaluate

SPEC = MetricSpec(
    protocol="p", version=1, family="face", title="t", unit="u", low=0, high=1, direction="higher",
    citation="c", licence="l", caveat="n", assets=("yunet",), uses_prompt=True,
    uses_references=True, digests=(("judge", "1" * 64),),
)  # fmt: skip


def item(**changes: Any) -> Inspected:
    said: dict[str, Any] = {"prompt": "a dog", "sample_id": "a", **changes}
    ref = Reference(
        path="r.png", phrase="x", subject_class="thing", is_face=said.pop("is_face", False),
        is_scene=said.pop("is_scene", False),
    )  # fmt: skip
    video, image, mask = (
        said.pop(k, d) for k, d in (("video", "v"), ("image", "i"), ("mask", "m"))
    )
    sample = Sample(video="v.mp4", refs=(ref,), source="generated", reference_id="r", **said)
    return Inspected(sample, Path("v.mp4"), video, (0,), ((image, mask),))


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a cat"}, {"video": "w"}, {"image": "j"}, {"mask": None}, {"mask": "n"},
        {"is_face": True}, {"is_scene": True},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_moves_a_number_changes_its_key(changes: dict[str, Any]) -> None:
    assert cache.key_of(SPEC, item(**changes)) != cache.key_of(SPEC, item())


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2}, {"protocol": "q"}, {"assets": ("yunet", "sface")}, {"digests": ()},
    ],
    ids=str,
)  # fmt: skip
def test_another_version_or_other_weights_change_the_key(changes: dict[str, Any]) -> None:
    assert cache.key_of(replace(SPEC, **changes), item()) != cache.key_of(SPEC, item())


def test_another_library_or_revision_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key_of(SPEC, item())
    with monkeypatch.context() as patch:
        patch.setattr(cache, "library_versions", lambda: {"numpy": "0.1"})
        assert cache.key_of(SPEC, item()) != before
    monkeypatch.setattr(cache, "revisions", lambda: {"yunet": 99})
    assert cache.key_of(SPEC, item()) != before


def test_names_and_what_a_metric_does_not_read_measure_nothing_anew() -> None:
    assert cache.key_of(SPEC, item(sample_id="b", seed=7, model="m")) == cache.key_of(SPEC, item())
    blind = replace(SPEC, uses_prompt=False, uses_references=False)
    other = item(prompt="a cat", image="j", is_face=True)
    assert cache.key_of(blind, other) == cache.key_of(blind, item())


def test_the_configurations_digest_tells_runs_apart(study: Any, tmp_path: Path) -> None:
    def config(name: str, **options: Any) -> str:
        options = {"replicates": 50, "suite": "motion", **options}
        found = evaluate(
            study.save(), tmp_path / name, progress=False, cache=study.shared_cache, report=False,
            **options,
        )  # fmt: skip
        return found.config_sha256

    base = config("a")
    others = [
        config("b", seed=1),
        config("c", replicates=60),
        config("d", limit=2),
        config("e", suite="motion.light.farneback"),
    ]
    assert len({base, *others}) == 5
    assert config("f") == base
