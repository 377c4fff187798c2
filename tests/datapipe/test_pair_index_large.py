"""Search beyond exact: the same answer for any batch, thread, shard order and worker."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.pair.ann import kind_of, nearest, open_search
from s2v.datapipe.pair.bank import BankError, open_bank, write_bank
from s2v.datapipe.pair.index import exact_top, merge
from s2v.datapipe.pair.ivf import IvfSearch
from s2v.datapipe.pair.settings import RetrievalSettings
from s2v.datapipe.pair.whole import LENGTH, whole
from s2v.datapipe.searching import ShardedSearch, _search_shard

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_vectors import rng

KINDS = ("exact", "ivf", "hnsw")


def identities(seed: int, count: int, members: int, d: int = 96, spread: float = 0.6) -> np.ndarray:
    """Unit rows in groups on a decaying spectrum, as embeddings lie; shuffled."""
    made = rng("identities", seed)
    scale = 1 / np.sqrt(1 + np.arange(d))
    centres = np.repeat(made.standard_normal((count, d)), members, axis=0)
    rows = (centres + spread * made.standard_normal(centres.shape)) * scale + scale * 0.8
    rows = made.permutation(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return rows.astype(np.float32)


def brute(queries: np.ndarray, bank: np.ndarray, k: int) -> list[list[int]]:
    scores = np.round(queries.astype(np.float64) @ bank.astype(np.float64).T, 6)
    return [np.lexsort((np.arange(len(bank)), -row))[:k].tolist() for row in scores]


def options(kind: str, **more: object) -> RetrievalSettings:
    return RetrievalSettings.model_validate({"index": kind, **more})


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 80),
    k=st.integers(1, 100),
    kind=st.sampled_from(KINDS),
    equal=st.integers(0, 40),
)
def test_an_index_asked_for_everything_answers_like_brute_force(
    seed: int, n: int, k: int, kind: str, equal: int
) -> None:
    bank = identities(seed, n, 1)
    bank[n - min(equal, n - 1) :] = bank[0]  # ties
    sure = options(kind, nlist=min(n, 7), nprobe=7, hnsw_ef_search=4 * n)
    found, cosines = nearest(bank[:5], bank, k, sure)
    assert found.shape == cosines.shape == (min(5, n), min(k, n))
    assert all(len(set(row)) == len(row) for row in found.tolist())
    assert (np.diff(cosines, axis=1) <= 0).all()
    if kind != "hnsw":  # a graph may miss a neighbour; it may not invent or repeat one
        assert found.tolist() == brute(bank[:5], bank, min(k, n))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_answer_never_depends_on_its_batch(kind: str) -> None:
    bank = identities(1, 400, 5)
    search = open_search(bank, options(kind))
    together = search.top(bank[:300], 12)
    for step in (1, 7, 64):
        parts = [search.top(bank[at : min(at + step, 300)], 12) for at in range(0, 300, step)]
        for side in (0, 1):
            np.testing.assert_array_equal(
                np.concatenate([part[side] for part in parts]), together[side]
            )


THREADS = """
import sys, zlib
import numpy as np
from s2v.datapipe.pair.ann import nearest
from s2v.datapipe.pair.settings import RetrievalSettings
bank = np.load(sys.argv[1])
for kind in ("ivf", "hnsw"):
    found = nearest(bank[:200], bank, 10, RetrievalSettings(index=kind))
    print(kind, [zlib.crc32(part.tobytes()) for part in found])
"""


def test_an_approximate_answer_never_depends_on_the_number_of_threads(tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", identities(2, 300, 5))
    command = [sys.executable, "-c", THREADS, str(tmp_path / "bank.npy")]
    answers = {
        subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for count in ("1", "2", "3")
    }
    assert len(answers) == 1


def test_scores_of_whole_numbers_are_the_same_bits_in_any_order() -> None:
    rows = whole(identities(3, 200, 3, d=1408))
    assert np.linalg.norm(rows, axis=1).max() <= LENGTH
    order = rng("order").permutation(rows.shape[1])
    there = rows @ rows.T
    np.testing.assert_array_equal(there, rows[:, order] @ rows[:, order].T)
    np.testing.assert_array_equal(there[:1], rows[:1] @ rows.T)
    np.testing.assert_array_equal(there, rows.astype(np.int64) @ rows.astype(np.int64).T)


@pytest.mark.parametrize(("kind", "floor"), [("ivf", 0.9), ("hnsw", 0.95)])
def test_an_approximate_index_finds_the_neighbours_that_exist(kind: str, floor: float) -> None:
    bank = identities(4, 2000, 6)
    exact, _ = exact_top(bank[:400], bank, 10)
    found, _ = nearest(bank[:400], bank, 10, options(kind))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= floor


def test_asking_again_for_more_needs_no_new_index_and_repeats_what_was_said() -> None:
    bank = identities(5, 300, 5)
    search = open_search(bank, options("ivf", nlist=40, nprobe=4))
    few, _ = search.top(bank[:50], 5)
    subset = [3, 17, 40]
    more, cosines = search.top(bank[subset], 400)  # more than four lists hold
    assert more.shape == (3, 400)
    assert (cosines[:, :5] >= search.top(bank[subset], 5)[1]).all()
    for row, query in zip(more, subset, strict=True):
        assert set(few[query]) <= set(row)


def test_small_banks_are_searched_exactly_and_large_ones_are_not() -> None:
    assert kind_of(99_999, RetrievalSettings()) == "exact"
    assert kind_of(100_000, RetrievalSettings()) == "ivf"
    assert kind_of(5, options("hnsw")) == "hnsw"


def test_vectors_that_lists_do_not_help_are_searched_exactly() -> None:
    even = rng("even").standard_normal((3000, 64))
    even = (even / np.linalg.norm(even, axis=1, keepdims=True)).astype(np.float32)
    search = open_search(even, options("auto", exact_below=100))
    assert search.top(even[:50], 10)[0].tolist() == brute(even[:50], even, 10)
    lists = IvfSearch(even, options("ivf"))
    assert lists.nprobe > lists.nlist / 4


def test_probes_are_measured_so_that_the_recall_asked_for_is_reached() -> None:
    bank = identities(13, 1200, 5)
    exact, _ = exact_top(bank[:500], bank, 11)
    for wanted in (0.7, 0.9, 0.99):
        found, _ = nearest(bank[:500], bank, 11, options("ivf", recall=wanted))
        hits = [len(set(a[1:]) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]
        assert wanted - 0.05 < np.mean(hits)


def good() -> np.ndarray:
    return identities(6, 20, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("queries", "bank", "k", "said"),
    [
        (good()[:, :-1], good(), 3, "different embedders"),
        (good(), good()[:0], 3, "at least one row"),
        (good(), good() * 2, 3, "row 0 of the bank has length 2"),
        (good() * 0.5, good(), 3, "row 0 of the queries has length 0.5"),
        (good(), np.where(np.eye(40, 96, k=3) > 0, np.nan, good()), 3, "row 0 of the bank"),
        (good(), good(), 0, "k is 0"),
    ],
)
def test_input_that_would_give_a_wrong_answer_is_refused(
    kind: str, queries: np.ndarray, bank: np.ndarray, k: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        nearest(queries, bank, k, options(kind))


def test_no_queries_are_no_error() -> None:
    positions, cosines = nearest(good()[:0], good(), 3, options("ivf"))
    assert positions.shape == cosines.shape == (0, 3)


# --- on disk, in shards -------------------------------------------------------------------------


def blocks_of(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


@pytest.mark.parametrize("shard_rows", [19, 97, 250, 1000])
def test_shards_of_an_exact_bank_answer_as_one(tmp_path: Path, shard_rows: int) -> None:
    rows = identities(7, 50, 5)
    rows[200:220] = rows[3]  # ties across shards go by position
    bank = write_bank(tmp_path / "bank", blocks_of(rows, 33), shard_rows=shard_rows)
    found, cosines = ShardedSearch(bank, options("exact")).top(rows[:40], 30)
    one, there = exact_top(rows[:40], rows, 30)
    np.testing.assert_array_equal(found, one)
    np.testing.assert_array_equal(cosines, there)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_merge_to_the_same_answer_in_any_order(tmp_path: Path, kind: str) -> None:
    rows = identities(8, 60, 5)
    parts = []
    for at in range(0, 300, 100):
        positions, cosines = nearest(rows[:30], rows[at : at + 100], 8, options(kind))
        parts.append((positions + at, cosines))
    answers = [merge(order, 8) for order in itertools.permutations(parts)]
    for positions, cosines in answers[1:]:
        np.testing.assert_array_equal(positions, answers[0][0])
        np.testing.assert_array_equal(cosines, answers[0][1])


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_what_an_index_learnt_is_kept_and_rebuilt_when_damaged(tmp_path: Path, kind: str) -> None:
    rows = identities(9, 80, 5)
    bank = write_bank(tmp_path / "bank", [rows], shard_rows=200, storage="float16")
    search = ShardedSearch(bank, options(kind))
    first = search.top(rows[:20], 10)
    kept = sorted(p for p in (tmp_path / "bank" / "built").rglob("*") if p.is_file())
    assert kept
    stamps = [p.stat().st_mtime_ns for p in kept]
    np.testing.assert_array_equal(search.top(rows[:20], 10)[0], first[0])
    assert [p.stat().st_mtime_ns for p in kept] == stamps
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(search.top(rows[:20], 10)[0], first[0])
    assert not list((tmp_path / "bank").glob("asked-*"))


def test_half_floats_find_what_floats_find(tmp_path: Path) -> None:
    rows = identities(10, 60, 5)
    answers = [
        ShardedSearch(
            write_bank(tmp_path / storage, [rows], shard_rows=128, storage=storage),
            options("exact"),
        ).top(rows, 5)
        for storage in ("float32", "float16")
    ]
    assert np.abs(answers[0][1] - answers[1][1]).max() < 5e-4
    assert (answers[0][0] == answers[1][0]).mean() > 0.95


def test_a_damaged_bank_is_named_and_not_searched(tmp_path: Path) -> None:
    rows = identities(11, 20, 5)
    folder = tmp_path / "bank"
    with pytest.raises(BankError, match=r"bank\.json is missing"):
        open_bank(folder)
    bank = write_bank(folder, [rows], shard_rows=40)
    with pytest.raises(BankError, match="holds a bank already"):
        write_bank(folder, [rows])
    part = folder / "vectors-00001.npy"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(BankError, match=r"vectors-00001\.npy.*write the bank again"):
        ShardedSearch(bank, options("exact")).top(rows[:3], 2)
    part.unlink()
    with pytest.raises(BankError, match=r"vectors-00001\.npy"):
        ShardedSearch(bank, options("ivf")).top(rows[:3], 2)
    with pytest.raises(ValueError, match="from position 100 have 95 dimensions"):
        write_bank(tmp_path / "mixed", [rows, good()[:, :-1] / 1.0])
    with pytest.raises(ValueError, match="at least one"):
        write_bank(tmp_path / "empty", [])


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_ray_workers_give_the_answer_of_this_process(tmp_path: Path) -> None:
    import ray

    rows = identities(12, 200, 5)
    bank = write_bank(tmp_path / "bank", blocks_of(rows, 90), shard_rows=230)
    here = ShardedSearch(bank, options("ivf")).top(rows[:60], 20)
    try:
        there = ShardedSearch(bank, options("ivf"), ray=True, cpus=2).top(rows[:60], 20)
        (tmp_path / "bank" / "vectors-00002.npy").unlink()
        with pytest.raises(BankError, match=r"shard 2 .*vectors-00002\.npy"):
            ShardedSearch(bank, options("ivf"), ray=True).top(rows[:3], 2)
    finally:
        ray.shutdown()
    for side in (0, 1):
        np.testing.assert_array_equal(here[side], there[side])


def test_a_lost_disk_is_told_apart_from_a_damaged_bank(tmp_path: Path) -> None:
    job = {"bank": str(tmp_path / "bank"), "shard": 0, "k": 1, "settings": {}}
    job["queries"] = str(tmp_path / "asked.npy")
    assert "bank.json is missing" in _search_shard(json.dumps(job))["damaged"]
    write_bank(tmp_path / "bank", [good()])
    failed = _search_shard(json.dumps(job))["failed"]
    assert failed["kind"] == "FileNotFoundError"
    assert "asked.npy" in failed["file"]


def test_a_bank_of_equal_vectors_is_one_list_and_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("s2v.datapipe.pair.ivf._SCORES", 1000)  # so that the list is cut
    bank = np.repeat(good()[:1], 700, axis=0)
    found, cosines = nearest(bank[:40], bank, 5, options("ivf"))
    assert found.tolist() == [[0, 1, 2, 3, 4]] * 40
    assert (cosines == cosines[0, 0]).all()


def test_one_list_for_each_row_still_answers() -> None:
    bank = good()
    search = IvfSearch(bank, options("ivf", nlist=500))
    assert search.top(bank, 40)[0].tolist() == brute(bank, bank, 40)
