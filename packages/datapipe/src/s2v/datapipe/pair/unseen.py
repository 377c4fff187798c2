"""People of an evaluation set are kept out of the samples (Concat-ID's guard against leakage).

Concat-ID drops a test identity when any training face lies above a cosine of 0.45 to it. A test
set is given here and training data made, so it goes the other way: an identity of the corpus with
a face above the bound to a test face is dropped whole, its subjects and its pairs. So is every
clip in which such a face is seen at all, for a passer-by whom no phrase names is in the pictures
too. People whose face is not seen cannot be told apart this way; nor can subjects without faces.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2v.datapipe.pair.columns import Flags, Ints, VectorColumn, Vectors, codes, whole
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.rows import Tables, measured

IN_TEST: Final = "in the evaluation set"
_BLOCK: Final = 8192
_DECIMALS: Final = 6
_MAX_BYTES: Final = 4 << 30
_SUFFIXES: Final = (".npz", ".parquet")


class TestFacesError(ValueError):
    """A file of test faces that cannot be used; nothing is selected then."""

    __test__ = False  # pytest: no test class


@dataclass(frozen=True)
class TestFaces:
    """Faces of an evaluation set.

    Attributes:
        embedder: what made them; only faces of the same embedder are compared.
        vectors: ``[n, d]``, of length one.
        bound: an identity with a cosine above it is dropped.
    """

    __test__ = False

    embedder: str
    vectors: Vectors
    bound: float


def read_test_faces(path: Path, bound: float) -> TestFaces:
    """Read a file of face embeddings.

    Args:
        path: an ``.npz`` with ``embedding``, float ``[n, d]``, and ``embedder``, a string; or a
            ``.parquet`` with these columns, as table FACES has them. Pickles are refused.
        bound: cosine.

    Raises:
        TestFacesError: naming the file and what is wrong with it.
    """
    try:
        if path.suffix == ".npz":
            embedder, vectors = _npz(path)
        elif path.suffix == ".parquet":
            embedder, vectors = _parquet(path)
        else:
            raise TestFacesError(f"{path}: test faces are read from {' or '.join(_SUFFIXES)}")
    except TestFacesError:
        raise
    except FileNotFoundError:
        raise TestFacesError(
            f"{path}: no such file; name the test faces or take split.test_identities out"
        ) from None
    except (ValueError, KeyError, OSError, pa.ArrowException, zipfile.BadZipFile) as error:
        raise TestFacesError(
            f"{path}: unreadable ({error}); it needs 'embedding', float [n, d], and 'embedder', "
            "the id of the model that made it"
        ) from None
    if vectors.ndim != 2 or not vectors.size:
        raise TestFacesError(f"{path}: 'embedding' has shape {list(vectors.shape)}, not [n, d]")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) < 0.01).all():
        raise TestFacesError(
            f"{path}: a face has length {float(lengths[np.argmax(np.abs(lengths - 1))]):.4f}; "
            "embeddings must be L2-normalised"
        )
    return TestFaces(embedder, vectors, bound)


def _npz(path: Path) -> tuple[str, Vectors]:
    with zipfile.ZipFile(path) as packed:
        if (size := sum(member.file_size for member in packed.infolist())) > _MAX_BYTES:
            raise TestFacesError(f"{path}: {size} bytes unpacked, over {_MAX_BYTES}; split it")
    with np.load(path, allow_pickle=False) as arrays:
        return str(arrays["embedder"]), np.asarray(arrays["embedding"], np.float32)


def _parquet(path: Path) -> tuple[str, Vectors]:
    table = pq.read_table(path, columns=["embedder", "embedding"], partitioning=None)
    if len(embedders := sorted(set(table["embedder"].to_pylist()), key=str)) != 1:
        raise TestFacesError(f"{path}: faces of embedders {embedders}; give those of one")
    column = whole(table["embedding"]).cast(pa.list_(pa.float32()))
    return str(embedders[0]), VectorColumn(column).take(np.arange(len(table)))


def seen_identities(
    pool: Pool, bank: Bank, identity_ids: pa.Array, test: TestFaces
) -> Mapping[str, str]:
    """Identities with a face above the bound to a test face.

    Args:
        pool: subjects.
        bank: their vectors.
        identity_ids: by position in the pool, null for dropped subjects.
        test: the evaluation set.

    Returns:
        :data:`IN_TEST` by identity.

    Raises:
        TestFacesError: the corpus has faces, and none of them is of the same embedder.
    """
    code, embedders = codes(pool.table["face_embedder"])
    kept = identity_ids.is_valid().to_numpy(zero_copy_only=False)
    faced = kept & (code >= 0)
    known = embedders.to_pylist()
    if not faced.any():
        return {}
    if test.embedder not in known:
        raise TestFacesError(
            f"test faces are of {test.embedder!r}, the corpus's of {sorted(known)}; embed the "
            "evaluation set with the run's face model, or nothing would be compared"
        )
    mine = np.flatnonzero(faced & (code == known.index(test.embedder)))
    near = _near(bank.face, mine, test)
    return dict.fromkeys(sorted(set(identity_ids.take(pa.array(mine[near])).to_pylist())), IN_TEST)


def seen_clips(tables: Tables, test: TestFaces) -> pa.Array:
    """Clips and photographs with any face above the bound to a test face, whoever it belongs to.

    Args:
        tables: the measure tables, of which ``faces`` is read.
        test: the evaluation set.

    Returns:
        Their ids, sorted.

    Raises:
        TestFacesError: vectors of another length.
    """
    faces = measured(tables, "faces").select(["clip_id", "embedder", "embedding"])
    same = pc.fill_null(pc.equal(faces["embedder"], test.embedder), False)
    comparable = whole(pc.and_(same, pc.is_valid(faces["embedding"])))
    rows = np.flatnonzero(comparable.to_numpy(zero_copy_only=False))
    near = _near(VectorColumn(faces["embedding"]).take, rows, test)
    seen = set(faces["clip_id"].take(pa.array(rows[near])).to_pylist())
    return pa.array(sorted(seen), pa.string())


def _near(vectors: Callable[[Ints], Vectors], at: Ints, test: TestFaces) -> Flags:
    """Of the faces at places ``at``, which lie above the bound to a test face."""
    near = np.zeros(len(at), np.bool_)
    against = test.vectors.astype(np.float64).T
    for begin in range(0, len(at), _BLOCK):
        part = vectors(at[begin : begin + _BLOCK]).astype(np.float64)
        if part.shape[1] != len(against):
            raise TestFacesError(
                f"test faces have {len(against)} numbers, the corpus's {part.shape[1]}"
            )
        cosines = np.round(part @ against, _DECIMALS)
        near[begin : begin + _BLOCK] = cosines.max(axis=1) > test.bound
    return near
