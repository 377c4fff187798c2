"""Candidate pairs and identities the plain way: row by row, all with all, in Python.

The selection did this before it was made of arrays; it serves as the truth on small worlds. From
the product it takes the rows of SUBJECTS and the settings, nothing that it is to be compared with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.pair.settings import LIVING, SelectSettings

Row = dict[str, Any]
Pair = tuple[str, str]


class Oracle:
    """The pairs and identities of some subjects.

    Attributes:
        pairs: rows of table PAIRS, by target and rank.
        identity: by subject.
    """

    def __init__(
        self,
        tables: dict[str, pa.Table],
        subjects: Iterable[Row],
        duplicate_of: dict[str, str],
        settings: SelectSettings,
    ) -> None:
        self.settings = settings
        self.duplicate_of = duplicate_of
        self.embeddings = {r["detection_id"]: r for r in tables["embeddings"].to_pylist()}
        self.faces = {(r["frame_id"], r["face"]): r for r in tables["faces"].to_pylist()}
        self.frames: dict[str, list[Row]] = defaultdict(list)
        for row in tables["frames"].to_pylist():
            self.frames[row["clip_id"]].append(row)
        rows = sorted(subjects, key=lambda row: str(row["subject_id"]))
        self.kept = [row for row in rows if row["reason"] is None]
        self.gone = [row for row in rows if row["reason"] == "clip: duplicate"]
        self.row = {row["subject_id"]: row for row in rows}
        found = [self.judge(a, b, search, order) for a, b, search, order in self.proposals()]
        self.candidates = self.first_passing(found)
        self.identity = self.cluster()
        for one in self.candidates:
            ends = (one["target_subject_id"], one["reference_subject_id"])
            if not one["rules"] and self.identity.get(ends[0]) != self.identity.get(ends[1]):
                one["rules"].append("identity_conflict")
        self.pairs = self.ranked()

    # Searches

    def proposals(self) -> list[tuple[Row, Row, str, float]]:
        """Everybody with everybody, by the search that would meet them."""
        lists: dict[tuple[str, str], list[tuple[float, str, Row, Row]]] = defaultdict(list)
        for a in self.kept:
            for b in self.kept:
                met = self.search(a, b)
                if met is not None:
                    search, order = met
                    lists[a["subject_id"], search].append((-order, b["subject_id"], a, b))
        cap = self.settings.retrieval.overfetch
        found = []
        for (_, search), near in lists.items():
            ordered = sorted(near, key=lambda one: one[:2])[:cap]
            found += [(a, b, search, -order) for order, _, a, b in ordered]
        for b in self.gone:
            for a in self.kept:
                same = a["clip_id"] == self.duplicate_of[b["clip_id"]]
                if same and all(a[k] == b[k] for k in ("bank", "embedder")):
                    found.append((a, b, "copy", 0.0))
        found.sort(key=lambda p: (p[0]["subject_id"], p[2], -p[3], p[1]["subject_id"]))
        return found

    def search(self, a: Row, b: Row) -> tuple[str, float] | None:
        """By which search ``a`` meets ``b`` and at what similarity; ``None``: by none."""
        if a["bank"] != b["bank"] or a["clip_id"] == b["clip_id"]:
            return None
        if a["embedder"] != b["embedder"]:
            return None
        across = self.settings.pair.of(a["bank"]).across_sources
        body = self.cosine(self.body(a), self.body(b))
        face = self.cosine(self.face(a), self.face(b))
        both = face is not None and a["face_embedder"] == b["face_embedder"]
        if across == "yes":
            return "all", body
        if a["long_video_id"] == b["long_video_id"]:
            if not both:
                return "own", body
            weight = self.settings.face.face_weight
            joint = [
                np.concatenate(
                    [np.sqrt(1 - weight) * unit(self.body(s)), np.sqrt(weight) * unit(self.face(s))]
                ).astype(np.float32)
                for s in (a, b)
            ]
            return "joint", self.cosine(*joint)
        return ("faces", face) if across == "faces" and both else None

    def body(self, row: Row, column: str = "subject") -> Any:
        return self.embeddings[row["detection_id"]][column]

    def face(self, row: Row) -> Any:
        if row["face_embedder"] is None:
            return None
        return self.faces[row["frame_id"], row["face"]]["embedding"]

    def cosine(self, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        one, other = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b))
        return round(float(one @ other), 6)

    # Rules

    def judge(self, a: Row, b: Row, search: str, order: float) -> Row:
        """One candidate with its scores and all rules that it fails."""
        rules = self.settings.pair
        bank, faces = rules.of(a["bank"]), self.settings.face
        same_embedder = a["embedder"] == b["embedder"]
        same_faces = a["face_embedder"] == b["face_embedder"]
        body = self.cosine(self.body(a), self.body(b)) if same_embedder else None
        face = self.cosine(self.face(a), self.face(b)) if same_faces else None
        places = (self.body(s, "background") for s in (a, b))
        place = self.cosine(*places) if same_embedder else None
        crop, copied = (
            bits(a["crop_phash"], b["crop_phash"]),
            bits(a["face_phash"], b["face_phash"]),
        )
        frame = self.frame_bits(a["clip_id"], b["clip_id"])
        gap = None
        if a["video_id"] == b["video_id"] and a["kind"] != "image":
            gap = max(0, a["start_us"] - b["end_us"], b["start_us"] - a["end_us"])
        content = [self.duplicate_of.get(s["clip_id"], s["clip_id"]) for s in (a, b)]
        other_clip = a["clip_id"] != b["clip_id"]
        person = a["bank"] == "person"
        own = [bank.bounds(s["class"]) for s in (a, b)]
        lower, upper = max(one for one, _ in own), min(one for _, one in own)
        verified = face is not None and face >= faces.lower
        elsewhere = a["long_video_id"] != b["long_video_id"]
        unverified = bank.across_sources == "no" or (
            bank.across_sources == "faces" and not verified
        )
        fails = {
            "same_clip": not other_clip,
            "same_source_frame": (a["video_id"], a["pts_us"]) == (b["video_id"], b["pts_us"]),
            "min_gap": gap is not None and gap < int(rules.min_gap_seconds * 1e6) and other_clip,
            "duplicate_clip": content[0] == content[1] and other_clip,
            "above_upper": body >= upper,
            "face_too_similar": person and face is not None and face >= faces.upper,
            "near_copy_crop": crop is not None and crop <= rules.crop_bits,
            "near_copy_face": person and copied is not None and copied <= rules.face_bits,
            "near_copy_frame": frame is not None and frame <= rules.frame_bits,
            "background_too_similar": bank.max_background is not None
            and place is not None
            and place > bank.max_background,
            "copy_not_measured": crop is None
            or (bank.max_background is not None and place is None),
            "below_lower": body < lower,
            "face_mismatch": person and face is not None and not verified,
            "person_without_face": bank.require_face and face is None,
            "living_across_sources_without_verified_face": elsewhere
            and unverified
            and a["bank"] in LIVING,
            "noun_mismatch": bank.same_noun and a["noun"] != b["noun"],
        }
        return {
            "target_subject_id": a["subject_id"],
            "reference_subject_id": b["subject_id"],
            "target_clip_id": a["clip_id"],
            "reference_clip_id": b["clip_id"],
            "bank": a["bank"],
            "search": search,
            "order": order,
            "similarity": body,
            "face_similarity": face,
            "background_similarity": place,
            "phash_distance": crop,
            "face_phash_distance": copied,
            "frame_phash_distance": frame,
            "gap_us": gap,
            "same_long_video": not elsewhere,
            "rules": [rule for rule, failed in fails.items() if failed],
        }

    def frame_bits(self, a: str, b: str) -> int | None:
        """Smallest distance between any two frames that are not flat, one may be mirrored."""
        found = []
        for one in self.frames[a]:
            for other in self.frames[b]:
                if flat(one, self.settings) or flat(other, self.settings):
                    continue
                found.append(bits(one["phash"], other["phash"]))
                for x, y in ((one, other), (other, one)):
                    mirrored = x["phash_mirror"] or x["phash"]
                    found.append(bits(mirrored, y["phash"]))
        return min((n for n in found if n is not None), default=None)

    def first_passing(self, found: list[Row]) -> list[Row]:
        """Lists end after the wanted number of candidates that pass."""
        count: dict[tuple[str, str], int] = defaultdict(int)
        kept = []
        for one in found:
            key = (one["target_subject_id"], one["search"])
            if count[key] < self.settings.retrieval.candidates:
                kept.append(one)
                count[key] += not one["rules"]
        return kept

    def ranked(self) -> list[Row]:
        """By target, similarity and reference."""
        ordered = sorted(
            self.candidates,
            key=lambda r: (r["target_subject_id"], -r["similarity"], r["reference_subject_id"]),
        )
        seen: dict[str, int] = defaultdict(int)
        for one in ordered:
            one["rank"] = seen[one["target_subject_id"]]
            one["accepted"] = not one["rules"]
            seen[one["target_subject_id"]] += 1
        return ordered

    # Identities

    def cluster(self) -> dict[str, str]:
        """Links one by one, the strongest first."""
        of = {row["subject_id"]: row["subject_id"] for row in self.kept}
        links = set()
        for one in self.candidates:
            face, pair = one["face_similarity"], sides(one)
            strong = (
                one["similarity"] >= self.settings.pair.strong
                and one["same_long_video"]
                and not {"face_mismatch", "noun_mismatch"} & set(one["rules"])
                and (one["bank"] != "person" or face is not None)
            )
            if (strong or not one["rules"]) and pair[0] in of and pair[1] in of:
                links.add((face if face is not None else one["similarity"], *pair))
        links |= self.face_links()
        for _, a, b in sorted(links, key=lambda link: (-link[0], *link[1:])):
            mine, theirs = ([s for s in of if of[s] == of[end]] for end in (a, b))
            if of[a] != of[b] and not self.contradict(mine, theirs):
                of |= dict.fromkeys(mine + theirs, min(of[a], of[b]))
        return {s: f"id{stable_hash([first], 16)}" for s, first in of.items()}

    def face_links(self) -> set[tuple[float, str, str]]:
        found = set()
        for a in self.kept:
            near = [
                (-self.cosine(self.face(a), self.face(b)), b["subject_id"])
                for b in self.kept
                if a is not b and self.both_faces(a, b)
            ]
            for cosine, name in sorted(near)[:32]:
                if -cosine >= self.settings.face.lower:
                    found.add((-cosine, *sorted((a["subject_id"], name))))
        return found

    def both_faces(self, a: Row, b: Row) -> bool:
        return a["face_embedder"] is not None and a["face_embedder"] == b["face_embedder"]

    def contradict(self, mine: list[str], theirs: list[str]) -> bool:
        clips = [{self.row[s]["clip_id"] for s in side} for side in (mine, theirs)]
        if clips[0] & clips[1]:
            return True
        met = ((self.row[a], self.row[b]) for a in mine for b in theirs)
        return any(
            self.both_faces(a, b)
            and self.cosine(self.face(a), self.face(b)) < self.settings.face.different
            for a, b in met
        )


def sides(row: Row) -> Pair:
    a, b = sorted((row["target_subject_id"], row["reference_subject_id"]))
    return a, b


def unit(vector: Any) -> np.ndarray:
    wide = np.asarray(np.asarray(vector, np.float32), np.float64)
    return np.asarray(wide / np.linalg.norm(wide))


def bits(a: str | None, b: str | None) -> int | None:
    if a is None or b is None:
        return None
    return (int(a, 16) ^ int(b, 16)).bit_count()


def flat(row: Row, settings: SelectSettings) -> bool:
    return row["blur"] is not None and row["blur"] < settings.pair.min_frame_detail
