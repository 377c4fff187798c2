"""Identities: clusters of subjects that are one person, creature or thing.

Links are accepted pairs, verified faces and very similar subjects of one long video. They
are taken strongest first; a link is refused when it would put two subjects of one clip, or
two faces that plainly differ, into one identity. Chains of weak links are how clusters of
strangers come about.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.pair.index import exact_top
from s2v.datapipe.pair.retrieve import Candidates, vectors
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.settings import SelectSettings

_FACE_NEIGHBOURS = 32
Link = tuple[float, str, str]  # strength, two subject ids


def cluster(
    subjects: list[Row], candidates: Candidates, settings: SelectSettings
) -> dict[str, str]:
    """Cluster kept subjects.

    Args:
        subjects: kept rows of SUBJECTS, sorted by id.
        candidates: judged pairs; accepted ones are links.
        settings: face and similarity thresholds.

    Returns:
        ``identity_id`` by ``subject_id``: a hash of the cluster's smallest subject id, so
        it does not change while that subject and its links stay.
    """
    known = {row["subject_id"] for row in subjects}
    links = _accepted(candidates) + _faces(subjects, settings)
    links += _strong(candidates, settings.pair.strong)
    clusters = _Clusters(subjects, settings.face.different)
    for _, a, b in sorted(set(links), key=lambda link: (-link[0], link[1], link[2])):
        if a in known and b in known:
            clusters.link(a, b)
    return {
        subject: f"id{stable_hash([min(members)], 16)}"
        for members in clusters.members()
        for subject in members
    }


def conflicts(candidates: Candidates, identity: dict[str, str]) -> np.ndarray:
    """Accepted pairs whose two subjects ended in different identities."""
    e, accepted = candidates.evidence, candidates.accepted()
    return np.array(
        [
            bool(accepted[n]) and identity.get(e.target[n]) != identity.get(e.reference[n])
            for n in range(len(e))
        ],
        np.bool_,
    )


class _Clusters:
    def __init__(self, subjects: list[Row], different: float) -> None:
        self._of = {row["subject_id"]: n for n, row in enumerate(subjects)}
        self._members = {n: [row["subject_id"]] for n, row in enumerate(subjects)}
        self._clips = {n: {row["clip_id"]} for n, row in enumerate(subjects)}
        self._row = {row["subject_id"]: row for row in subjects}
        self._different = different

    def link(self, a: str, b: str) -> None:
        """Merge the clusters of ``a`` and ``b`` unless that is plainly wrong."""
        first, second = sorted((self._of[a], self._of[b]))
        if first == second or self._clips[first] & self._clips[second]:
            return
        if self._strangers(self._members[first], self._members[second]):
            return
        for member in self._members[second]:
            self._of[member] = first
        self._members[first] += self._members.pop(second)
        self._clips[first] |= self._clips.pop(second)

    def members(self) -> Iterable[list[str]]:
        """All clusters."""
        return self._members.values()

    def _strangers(self, a: list[str], b: list[str]) -> bool:
        for embedder, mine in self._faces(a).items():
            theirs = self._faces(b).get(embedder)
            if theirs is not None and float((mine @ theirs.T).min()) < self._different:
                return True
        return False

    def _faces(self, members: list[str]) -> dict[str, np.ndarray]:
        found: dict[str, list[list[float]]] = {}
        for member in members:
            row = self._row[member]
            if row["face_embedding"] is not None:
                found.setdefault(row["face_embedder"], []).append(row["face_embedding"])
        return {name: np.array(rows, np.float64) for name, rows in found.items()}


def _accepted(candidates: Candidates) -> list[Link]:
    return [_link(candidates, n) for n in np.flatnonzero(candidates.accepted())]


def _strong(candidates: Candidates, bound: float) -> list[Link]:
    """Very similar subjects of one long video whose faces do not contradict it.

    People in the same clothes are not one person: people are linked by verified faces only.
    """
    e = candidates.evidence
    fits = (e.similarity >= bound) & e.same_long_video & ~candidates.failed["face_mismatch"]
    fits &= ~candidates.failed["noun_mismatch"]
    fits &= (e.bank != "person") | ~np.isnan(e.face_similarity)
    return [_link(candidates, n) for n in np.flatnonzero(fits)]


def _link(candidates: Candidates, n: int) -> Link:
    e = candidates.evidence
    face = float(e.face_similarity[n])
    a, b = sorted((e.target[n], e.reference[n]))
    return float(e.similarity[n]) if np.isnan(face) else face, a, b


def _faces(subjects: list[Row], settings: SelectSettings) -> list[Link]:
    """Verified faces wherever they are, accepted as pair or not."""
    links: list[Link] = []
    seen = [row for row in subjects if row["face_embedding"] is not None]
    embedders = sorted({row["face_embedder"] for row in seen})
    for embedder in embedders:
        at = [
            n
            for n, row in enumerate(subjects)
            if row["face_embedding"] is not None and row["face_embedder"] == embedder
        ]
        bank = vectors(subjects, at, "face_embedding")
        found, near = exact_top(bank, bank, _FACE_NEIGHBOURS + 1, settings.retrieval.backend)
        for i, row in enumerate(found):
            for j, similarity in zip(row, near[i], strict=True):
                if i != j and similarity >= settings.face.lower:
                    a, b = sorted((subjects[at[i]]["subject_id"], subjects[at[j]]["subject_id"]))
                    links.append((float(similarity), a, b))
    return links
