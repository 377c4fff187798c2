"""Every threshold of the selection, with where it was published.

Sources: P Phantom, PD Phantom-Data, O OpenS2V-5M, CI Concat-ID, OS2 Open-Sora 2.0, VXF
VideoX-Fun, SV Step-Video, HC HunyuanCustom, M MAGREF, V VACE; *ours* where all of them are
silent. Those on files and clips are in :mod:`.clip_rules`, those on samples in
:mod:`.sample_rules`. Bounds are
half-open: a value passes when ``lower <= value < upper``. ``None`` switches a rule off.

A threshold that is on needs its score: a row without one is dropped as ``not measured``,
never passed.
"""

from __future__ import annotations

from typing import Any, Literal, Self, cast

from pydantic import ConfigDict, Field, model_validator

from s2v.datapipe.pair.clip_rules import ClipRules, SourceRules, Strict
from s2v.datapipe.pair.sample_rules import (
    ClassRules,
    QuotaSettings,
    SampleRules,
    SplitSettings,
)

Bank = Literal["person", "creature", "thing"]
ClassName = Literal["human", "animal", "clothes", "product", "landmark", "ip_character", "other"]
BANKS: tuple[Bank, ...] = ("person", "creature", "thing")
LIVING: frozenset[str] = frozenset({"person", "creature"})


class PhraseRules(Strict):
    """Rules on a subject phrase (P: distinct phrases; O: an exact substring)."""

    distinct: bool = Field(default=True, description="two equal phrases in one caption drop both")
    several_boxes: Literal["drop_phrase", "drop_frame", "best"] = Field(
        default="drop_phrase",
        description="a phrase grounded to several regions of a frame; PD drops it",
    )


class DetectionRules(Strict):
    """Rules on one box."""

    min_area_share: float = Field(default=0.04, ge=0, le=1, description="PD")
    max_area_share: float = Field(default=0.90, ge=0, le=1, description="PD")
    min_side: float = Field(default=128, ge=0, description="pixels at source scale; PD 128 x 128")
    min_score: float = Field(
        default=0.25, ge=0, le=1, description="O: Grounding DINO box threshold"
    )
    max_overlap: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="IoU of two subjects' boxes; PD keeps one, we the surer",
    )
    min_frames: int = Field(
        default=1,
        ge=1,
        description="sampled frames of a video with a box that passes; V keeps by their share, "
        "value unpublished",
    )
    require_complete: bool = Field(
        default=True, description="the checker saw the whole subject; PD. No checker, no rule"
    )
    require_specific: bool = Field(
        default=True, description="the checker saw no vague thing, such as trees; PD"
    )
    require_matches: bool = Field(
        default=True, description="the checker saw what the phrase says; PD"
    )


class MaskRules(Strict):
    """Rules on one mask."""

    min_area_share: float = Field(default=1 / 32, ge=0, le=1, description="of the frame; O")
    min_box_fill: float = Field(
        default=0.15, ge=0, le=1, description="mask / box: less is a scrap; ours"
    )
    max_box_fill: float = Field(
        default=0.99, ge=0, le=1.01, description="the box itself, no mask; ours"
    )
    allow_border: bool = Field(default=True, description="masks that touch the frame's border")
    min_score: float | None = Field(
        default=None,
        description="the segmenter's own prediction of IoU; Segment Anything's automatic mode "
        "keeps >= 0.88; O stores it and asks nothing",
    )
    max_overlap: float = Field(
        default=0.8, gt=0, le=1, description="IoU of two subjects' masks; the larger stays; O"
    )
    max_face_overlap: float = Field(
        default=0.25, gt=0, le=1, description="IoU of a thing's mask with a face; M"
    )


class FaceRules(Strict):
    """What makes a face usable and two faces one person; for the embedder in use (SFace)."""

    min_score: float = Field(
        default=0.65, ge=0, le=1, description="detector score; O gives ids above it"
    )
    min_side: float = Field(default=24, ge=0, description="pixels of the displayed frame; ours")
    min_area_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of the frame; CI 0.04 for portraits: a full figure's face is smaller",
    )
    max_area_share: float | None = Field(default=0.90, ge=0, le=1, description="of the frame; CI")
    max_yaw: float | None = Field(
        default=60, ge=0, le=90, description="degrees; M filters pose, values unpublished; ours"
    )
    max_pitch: float | None = Field(default=45, ge=0, le=90, description="degrees; M; ours")
    max_roll: float | None = Field(default=60, ge=0, le=180, description="degrees; M; ours")
    min_sharpness: float | None = Field(
        default=20, ge=0, description="of the face at 112 pixels; M filters quality; ours"
    )
    face_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="of the face in a person's joint vector, the body has the rest; PD joins "
        "them unweighted",
    )
    lower: float = Field(
        default=0.5,
        description="same person, in pairs and in identities; SFace's authors 0.363, but two women "
        "of the group photograph reach 0.42; CI 0.7 on ArcFace",
    )
    upper: float = Field(
        default=0.82,
        description="from here on a near copy; CI 0.9 on ArcFace. SFace on the sample photographs: "
        "pairs of different pictures reach 0.80, near copies begin at 0.84 (docs/audit.md)",
    )
    different: float = Field(
        default=0.25, description="two faces below it are never put into one identity; ours"
    )


class PeopleRules(Strict):
    """Whether the people of a source or clip may be used (:mod:`.policy`)."""

    minors: Literal["any", "not possible", "stated none"] = Field(
        default="not possible",
        description="drop clips of sources that state 'possible', or all that do not state 'none'",
    )
    face_policy: Literal["as stated", "stated allowed"] = Field(
        default="as stated",
        description="honour 'no faces': clips with a face and all people go; or treat sources "
        "that do not state 'allowed' so",
    )
    min_count_stable: float | None = Field(
        default=0.6,
        description="share of the sampled frames with the usual number of people; CI 0.7 at 2 "
        "frames a second. Of three frames two",
    )
    min_same_person: float | None = Field(
        default=0.7, description="share of consecutive frames, clips of one person; CI"
    )


class ClassBounds(Strict):
    """Bounds of one class of subjects, where they differ from those of its bank."""

    lower: float | None = Field(default=None, description="left out, the bank's")
    upper: float | None = Field(default=None, description="left out, the bank's")


class BankRules(Strict):
    """Bounds of one bank, for the subject embedder in use."""

    lower: float = Field(description="subject cosine below it: another subject; P, PD unpublished")
    upper: float = Field(description="from here on a near copy; P, PD unpublished")
    classes: dict[ClassName, ClassBounds] = Field(
        default_factory=dict,
        description="bounds of single classes, such as [select.pair.thing.classes.clothes]; of two "
        "subjects of different classes the stricter ones hold",
    )
    joint_lower: float | None = Field(
        default=None,
        description="the same for people's joint vectors, beside the bounds of body and face; off: "
        "with those two bounded their weighted mean is",
    )
    joint_upper: float | None = Field(
        default=None, description="joint vectors, from here on a near copy"
    )
    max_background: float | None = Field(
        default=None,
        description="cosine of backgrounds; PD asks for another one. On the film pairs above "
        "0.85 are the same place, seconds apart",
    )
    across_sources: Literal["no", "faces", "yes"] = Field(
        description="search beyond the long video: PD 'no' for the living; 'faces' when verified"
    )
    require_face: bool = Field(
        default=False, description="both subjects need a usable face, always"
    )
    same_noun: bool = Field(default=False, description="both phrases must have the same head noun")
    require_mark: bool = Field(
        default=False,
        description="products need a recognisable logo or text on both sides; PD keeps no other "
        "products. Other classes need none",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in (None, *self.classes):
            lower, upper = self.bounds(name)
            if lower >= upper:
                of = f"classes.{name}: " if name else ""
                raise ValueError(f"{of}lower {lower} must be below upper {upper}")
        return self

    def bounds(self, name: str | None = None) -> tuple[float, float]:
        """Lower and upper bound of a class, the bank's where it has none of its own."""
        own = self.classes.get(cast("ClassName", name))
        lower = self.lower if own is None or own.lower is None else own.lower
        upper = self.upper if own is None or own.upper is None else own.upper
        return lower, upper

    @property
    def least(self) -> float:
        """The lowest lower bound of its classes."""
        return min(self.bounds(name)[0] for name in (None, *self.classes))


class PairRules(Strict):
    """Rules on candidate pairs.

    A bank's section that names some keys keeps the bank's other defaults.
    """

    @model_validator(mode="before")
    @classmethod
    def _whole_banks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        default = {bank: cls.model_fields[bank].default.model_dump() for bank in BANKS}
        return {
            name: default[name] | given if name in default and isinstance(given, dict) else given
            for name, given in data.items()
        }

    person: BankRules = BankRules(
        # The face decides who it is; the body's cosine only guards against copies.
        lower=0.2,
        upper=0.93,
        max_background=0.85,
        across_sources="faces",
        require_face=True,
    )
    creature: BankRules = BankRules(
        # On the demo's film with MobileNetV2: of 432 pairs labelled blind none was wrong from 0.79
        # up, and none that passed the other rules lay above 0.90 (docs/calibration.md). One film;
        # calibrate elsewhere.
        lower=0.79,
        upper=0.90,
        max_background=0.85,
        across_sources="no",
    )
    thing: BankRules = BankRules(
        lower=0.80,
        upper=0.95,
        max_background=0.85,
        across_sources="yes",
        same_noun=True,
        require_mark=True,
    )
    mark_letters: int = Field(
        default=3,
        ge=1,
        description="letters of the text that makes a product recognisable, a wide one counts two. "
        "Of the demo's 145 boxes one has three or more: the motorcycle with its maker's name; ours",
    )
    mark_score: float = Field(
        default=0.6, ge=0, le=1, description="mean probability of that text's letters; there 0.69"
    )
    min_gap_seconds: float = Field(
        default=10.0, ge=0, description="between clips of one video; PD shows minutes beat seconds"
    )
    crop_bits: int = Field(
        default=10, ge=0, le=64, description="perceptual hash; P: imagededup, its 10"
    )
    face_bits: int = Field(
        default=10, ge=0, le=64, description="of the faces; P: imagededup on faces, its 10"
    )
    frame_bits: int = Field(
        default=10, ge=0, le=64, description="any two sampled frames; imagededup"
    )
    duplicate_frames: int = Field(
        default=2, ge=1, description="so many frames alike make two clips duplicates; ours"
    )
    repeat_bits: int = Field(
        default=6,
        ge=0,
        le=64,
        description="frame by frame between a clip and its replay in the same file; shots of one "
        "scene of the demo's film are from 10 up; ours",
    )
    repeat_gap_seconds: float = Field(
        default=10.0, ge=0, description="least time between a clip and its replay; ours"
    )
    min_frame_detail: float = Field(
        default=5.0, ge=0, description="sharpness below which a frame is too flat to compare; ours"
    )
    strong: float = Field(
        default=0.93, description="subject cosine that links an identity inside a long video; ours"
    )

    def of(self, bank: str) -> BankRules:
        """The rules of one bank."""
        rules: BankRules = getattr(self, bank)
        return rules


class RetrievalSettings(Strict):
    """The search, over-fetched until enough candidates pass; sizes measured in docs/scale.md."""

    candidates: int = Field(
        default=8, ge=1, description="passing candidates per subject and search"
    )
    verifier_rounds: int = Field(
        default=3,
        ge=1,
        description="how often a list is asked about, with the next that pass in place of those "
        "the verifier refused; so at most `candidates` times as many questions per subject and "
        "search; ours",
    )
    overfetch: int = Field(default=64, ge=1, description="candidates looked at before giving up")
    floor_margin: float | None = Field(
        default=0.2,
        ge=0.05,
        description="a gate: how far below the lower bound neighbours are still looked at and "
        "listed as candidates, down to the next tenth; left out, `overfetch` alone ends the list",
    )
    backend: Literal["auto", "faiss", "numpy"] = Field(
        default="auto", description="who does exact search; the answer is the same"
    )
    index: Literal["auto", "exact", "ivf", "hnsw"] = Field(
        default="auto", description="'auto' is exact below `exact_below` vectors and 'ivf' beyond"
    )
    exact_below: int = Field(default=100_000, ge=0, description="vectors of one bank; ours")
    sharded_from: int | None = Field(
        default=1_000_000,
        ge=1,
        description="vectors of one bank from which it is cut into shards on disk, each searched "
        "as a task on Ray; left out, a bank is held in memory whole. Ours",
    )
    shard_rows: int = Field(
        default=131_072, ge=1, description="vectors of a shard; an index is made of each"
    )
    nlist: int | None = Field(
        default=None, ge=1, description="ivf: lists; left out, the root of the vectors' number"
    )
    nprobe: int | None = Field(
        default=None,
        ge=1,
        description="ivf: lists a query looks into; left out, as many as `recall` takes",
    )
    recall: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="ivf: share of the true 10 neighbours to be found; `nprobe` is measured for it "
        "on 256 vectors of the bank; ours",
    )
    hnsw_m: int = Field(default=16, ge=2, le=128, description="hnsw: links per vector")
    hnsw_ef_construction: int = Field(default=80, ge=4, description="hnsw: width of building")
    hnsw_ef_search: int = Field(default=128, ge=1, description="hnsw: least width of searching")
    seed: int = Field(default=0, ge=0, description="ivf: sample and start of k-means")
    hub_above: float | None = Field(
        default=10.0,
        gt=1,
        description="a subject that so many times the mean number of targets list is a hub; ours",
    )
    hub_floor: int = Field(
        default=64, ge=1, description="targets that may list a subject in any case; ours"
    )

    @model_validator(mode="after")
    def _cap(self) -> Self:
        if self.overfetch < self.candidates:
            raise ValueError(
                f"overfetch {self.overfetch} is below candidates {self.candidates}; raise it"
            )
        return self


class ShardCounts(Strict):
    """Shards per pair type; the first write records them and later ones keep to them."""

    in_: int = Field(default=4, ge=1, le=100_000, alias="in")
    cross: int = Field(default=2, ge=1, le=100_000)
    image: int = Field(default=1, ge=1, le=100_000)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def of(self, pair_type: str) -> int:
        """Number of shards of ``pair_type``."""
        count: int = getattr(self, {"in": "in_"}.get(pair_type, pair_type))
        return count


class SelectSettings(Strict):
    """Everything :func:`s2v.datapipe.pair.select.select` depends on besides the tables."""

    source: SourceRules = SourceRules()
    clip: ClipRules = ClipRules()
    phrase: PhraseRules = PhraseRules()
    detection: DetectionRules = DetectionRules()
    mask: MaskRules = MaskRules()
    face: FaceRules = FaceRules()
    people: PeopleRules = PeopleRules()
    pair: PairRules = PairRules()
    retrieval: RetrievalSettings = RetrievalSettings()
    classes: ClassRules = ClassRules()
    sample: SampleRules = SampleRules()
    quota: QuotaSettings = QuotaSettings()
    split: SplitSettings = SplitSettings()
    shards: ShardCounts = ShardCounts()
