"""Which clips may be used: the first rule failed is the reason, in the order written here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from s2v.datapipe.base.exclusions import ExclusionIndex, KeyType
from s2v.datapipe.pair.chunks import pieces
from s2v.datapipe.pair.clip_rules import ClipRules, SourceRules
from s2v.datapipe.pair.policy import People
from s2v.datapipe.pair.rows import Row, Tables, by, read
from s2v.datapipe.pair.settings import SelectSettings

_READ: Final = (
    *("clips", "sources", "probe", "quality", "overlays", "captions", "people", "faces"),
    "quarantine",
)
_EXCLUDING: Final[tuple[KeyType, ...]] = ("sha256", "long_video_id", "video_id", "clip_id")


def clip_reasons(
    tables: Tables,
    settings: SelectSettings,
    excluded: ExclusionIndex,
) -> dict[str, str | None]:
    """Say of every clip why it is dropped, or ``None``.

    Args:
        tables: the measure tables.
        settings: thresholds.
        excluded: exclusion and takedown list.

    Returns:
        Reason by ``clip_id``, for every row of table ``clips``, sorted.
    """
    reasons: dict[str, str | None] = {}
    for piece in pieces(tables, _READ):
        reasons |= _reasons(piece, settings, excluded)
    return reasons


def _reasons(
    tables: Tables, settings: SelectSettings, excluded: ExclusionIndex
) -> dict[str, str | None]:
    sources = by(read(tables, "sources"), "video_id")
    probes = by(read(tables, "probe"), "video_id")
    quality = by(read(tables, "quality"), "clip_id")
    overlays = by(read(tables, "overlays"), "clip_id")
    captions = by(read(tables, "captions"), "clip_id")
    people = People(tables, settings.people)
    quarantined = {row["id"]: row["stage"] for row in read(tables, "quarantine")}
    reasons: dict[str, str | None] = {}
    for clip in read(tables, "clips"):
        keys = {**clip, "sha256": sources.get(clip["video_id"], {}).get("sha256")}
        reason = excluded.reason(keys, *_EXCLUDING)
        checks = (
            ("excluded: " + reason if reason else None),
            _quarantine(clip, quarantined),
            next(_source(probes.get(clip["video_id"]), clip, settings.source), None),
            quality.get(clip["clip_id"], {}).get("gate"),
            next(people.clip_fails(clip), None),
            next(_scan(clip, settings.clip), None),
            next(_overlaid(clip, overlays.get(clip["clip_id"], {}), settings.clip), None),
            next(_quality(clip, quality.get(clip["clip_id"], {}), settings.clip), None),
            None if clip["clip_id"] in captions else "not measured: caption",
        )
        reasons[clip["clip_id"]] = next((f"clip: {c}" for c in checks if c), None)
    return reasons


def rules_failed(
    clip: Row, probe: Row | None, overlay: Row, quality: Row, settings: SelectSettings
) -> list[str]:
    """All rules on scores that a clip fails, not just the first.

    Args:
        clip: row of table ``clips``.
        probe: row of table ``probe`` of its file.
        overlay, quality: its rows of these tables; empty where there are none.
        settings: thresholds.
    """
    return [
        *_source(probe, clip, settings.source),
        *_scan(clip, settings.clip),
        *_overlaid(clip, overlay, settings.clip),
        *_quality(clip, quality, settings.clip),
    ]


def _quarantine(clip: Row, quarantined: dict[str, str]) -> str | None:
    for key in ("video_id", "clip_id"):
        if clip[key] in quarantined:
            return f"quarantined in {quarantined[clip[key]]}"
    return None


def _source(probe: Row | None, clip: Row, rules: SourceRules) -> Iterator[str]:
    """Names of the rules on the file failed, in order."""
    if probe is None:
        yield "not measured: probe"
        return
    if probe["reason"]:
        yield f"source {probe['reason']}"
    short, long = sorted((probe["width"], probe["height"]))
    if rules.min_short_side is not None and short < rules.min_short_side:
        yield "source too small"
    if rules.max_aspect is not None and long > rules.max_aspect * short:
        yield "source aspect"
    if clip["kind"] != "image":
        yield from _bounds(probe, "fps", rules.min_fps, None, low="source frame rate")
        bits = rules.min_bits_per_pixel
        yield from _bounds(probe, "bits_per_pixel", bits, None, low="source bit rate")


def _scan(clip: Row, rules: ClipRules) -> Iterator[str]:
    """Names of the rules on the sequential scan failed, in order; photographs have none."""
    if clip["kind"] == "image":
        return
    seconds = round((clip["end_us"] - clip["start_us"]) / 1e6, 3)  # stamps are rounded
    if seconds < rules.min_seconds:
        yield "too short"
    if seconds > rules.max_seconds:
        yield "too long"
    yield from _bounds(clip, "black", None, rules.max_black, high="black")
    yield from _bounds(clip, "freeze", None, rules.max_freeze, high="frozen")
    yield from _bounds(
        clip, "motion", rules.min_motion, rules.max_motion, low="static", high="too much motion"
    )
    yield from _bounds(clip, "motion_peak", None, rules.max_motion_peak, high="too much motion")
    yield from _bounds(
        clip, "luma", rules.min_luma, rules.max_luma, low="too dark", high="too bright"
    )
    yield from _bounds(clip, "luma_std", rules.min_contrast, None, low="no contrast")


def _overlaid(clip: Row, overlay: Row, rules: ClipRules) -> Iterator[str]:
    if clip["kind"] != "image":
        yield from _bounds(overlay, "crop_kept", rules.min_crop_kept, None, low="little left")


def _quality(clip: Row, quality: Row, rules: ClipRules) -> Iterator[str]:
    """Names of the rules on the sampled frames failed, in order.

    What tells a film from its overlays, and exposure, is asked of videos only: on a photograph
    nothing changes, and a product on white is no fault.
    """
    yield from _bounds(quality, "text_share", None, rules.max_text_share, high="text")
    if clip["kind"] != "image":
        most = rules.max_subtitle_share
        yield from _bounds(quality, "subtitle_share", None, most, high="subtitles")
        most = rules.max_watermark_share
        yield from _bounds(quality, "watermark_share", None, most, high="watermark")
        yield from _bounds(quality, "blockiness", None, rules.max_blockiness, high="blocky")
        most = rules.max_exposure_low
        yield from _bounds(quality, "exposure_low", None, most, high="underexposed")
        most = rules.max_exposure_high
        yield from _bounds(quality, "exposure_high", None, most, high="overexposed")
    yield from _bounds(quality, "blur", rules.min_blur, None, low="blurred")
    yield from _bounds(
        *(quality, "saturation", rules.min_saturation, rules.max_saturation),
        low="colourless",
        high="oversaturated",
    )
    yield from _bounds(quality, "niqe", None, rules.max_niqe, high="unnatural")
    yield from _bounds(quality, "nsfw", None, rules.max_nsfw, high="not safe for work")
    yield from _bounds(quality, "aesthetic", rules.min_aesthetic, None, low="aesthetic")


def _bounds(
    row: Row,
    column: str,
    lower: float | None,
    upper: float | None,
    *,
    low: str = "",
    high: str = "",
) -> Iterator[str]:
    if lower is None and upper is None:
        return
    value = row.get(column)
    if value is None:
        yield f"not measured: {column}"
        return
    if lower is not None and value < lower:
        yield low
    if upper is not None and value > upper:
        yield high
