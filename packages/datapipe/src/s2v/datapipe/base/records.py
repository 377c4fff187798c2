"""Arrow schema of every table of a run, with units.

One place says what a column means. ``*_us`` are microseconds of presentation time,
boxes are ``[x0, y0, x1, y1]`` in pixels of the displayed frame (after rotation and
sample aspect ratio), embeddings are L2-normalised float32, masks are COCO
run-length encodings of the displayed frame, scores are rounded before they are stored.

Rows are never deleted: a row with a ``reason`` was dropped, and the reason says by which
rule. ``null`` in a score column means *not measured*.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

BOX: Final = pa.list_(pa.float32(), 4)
EMBEDDING: Final = pa.list_(pa.float32())


def _s(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


STRING: Final = pa.string()
INT: Final = pa.int64()
FLOAT: Final = pa.float64()
BOOL: Final = pa.bool_()

#: One row per source. A photograph is a source with ``kind == "image"`` and one clip.
SOURCES: Final = _s(
    ("video_id", STRING),
    ("long_video_id", STRING),  # same film, several files; survives everywhere
    ("kind", STRING),  # video | image
    ("path", STRING),  # as the user wrote it
    ("url", STRING),
    ("licence", STRING),  # as stated, or "unverified"
    ("consent", STRING),  # of depicted people: as stated, "unverified" or "not applicable"
    ("credit", STRING),
    ("origin", STRING),  # live | animation | animated still | photograph | ...
    ("sha256", STRING),
    ("bytes", INT),
    ("duplicate_of", STRING),  # an earlier source with the same bytes
)

#: What probing found, one row per readable source.
PROBE: Final = _s(
    ("video_id", STRING),
    ("width", INT),  # displayed pixels
    ("height", INT),
    ("fps", FLOAT),  # average
    ("duration_us", INT),
    ("declared_frames", INT),
    ("codec", STRING),
    ("pix_fmt", STRING),
    ("rotation", INT),  # degrees clockwise
    ("has_audio", BOOL),
    ("bits_per_pixel", FLOAT),
    ("reason", STRING),
)

#: Every moment of a source: inside a clip, or in a dropped span with a reason.
SPANS: Final = _s(
    ("video_id", STRING),
    ("start_us", INT),
    ("end_us", INT),
    ("clip_id", STRING),  # null for a dropped span
    ("reason", STRING),  # null for a clip
)

#: Clips and what the sequential scan measured on small frames.
CLIPS: Final = _s(
    ("clip_id", STRING),
    ("video_id", STRING),
    ("long_video_id", STRING),
    ("kind", STRING),
    ("start_us", INT),
    ("end_us", INT),
    ("frames", INT),  # decoded frames inside the clip
    ("fps", FLOAT),
    ("width", INT),
    ("height", INT),
    ("motion", FLOAT),  # mean optical-flow magnitude, share of frame height per second
    ("luma", FLOAT),  # mean, 0..1
    ("luma_std", FLOAT),  # contrast, mean over frames, 0..1
    ("freeze", FLOAT),  # share of frames equal to the one before
    ("black", FLOAT),  # share of near-black frames
)

#: Sampled frames (5, 50, 95 % of the clip), stored once as JPEG members of a tar.
FRAMES: Final = _s(
    ("frame_id", STRING),
    ("clip_id", STRING),
    ("position", FLOAT),  # share of the clip
    ("pts_us", INT),
    ("width", INT),
    ("height", INT),
    ("tar", STRING),  # path below the run folder
    ("offset", INT),
    ("size", INT),
    ("phash", STRING),  # 64-bit perceptual hash, 16 hex
    ("blur", FLOAT),  # variance of the Laplacian at 480 px short side
    ("saturation", FLOAT),  # 0..1
)

#: Per-clip quality beyond the scan.
QUALITY: Final = _s(
    ("clip_id", STRING),
    ("text_share", FLOAT),  # share of the frame inside text boxes, middle frame
    ("nsfw", FLOAT),  # 0..1
    ("aesthetic", FLOAT),  # null in the embedded profile: no model exists for it
    ("gate", STRING),  # "not measured: gate X" where one stopped the clip; never stored as measured
)

CAPTIONS: Final = _s(
    ("clip_id", STRING),
    ("caption", STRING),
    ("captioner", STRING),  # model id
    ("prompt_sha256", STRING),
    ("facts", STRING),  # JSON of the measured facts a composed caption rests on
)

#: One row per subject phrase of a caption.
PHRASES: Final = _s(
    ("subject_id", STRING),
    ("clip_id", STRING),
    ("phrase", STRING),
    ("start", INT),  # character span in the caption
    ("end", INT),
    ("noun", STRING),
    ("bank", STRING),  # person | creature | thing
    ("reason", STRING),
)

DETECTIONS: Final = _s(
    ("detection_id", STRING),
    ("subject_id", STRING),
    ("clip_id", STRING),
    ("frame_id", STRING),
    ("pts_us", INT),
    ("box", BOX),
    ("score", FLOAT),
    ("area_share", FLOAT),
    ("reason", STRING),
)

MASKS: Final = _s(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("rle", STRING),
    ("rle_height", INT),
    ("rle_width", INT),
    ("area_share", FLOAT),  # mask pixels / frame pixels
    ("box_fill", FLOAT),  # mask pixels / box pixels
    ("touches_border", BOOL),
    ("reason", STRING),
)

FACES: Final = _s(
    ("clip_id", STRING),
    ("frame_id", STRING),
    ("face", INT),  # n-th on the frame
    ("detection_id", STRING),  # the person box it lies in, or null
    ("box", BOX),
    ("points", pa.list_(pa.float32(), 10)),  # 5 landmarks, x y x y ...
    ("score", FLOAT),
    ("embedder", STRING),
    ("embedding", EMBEDDING),
)

EMBEDDINGS: Final = _s(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("embedder", STRING),
    ("subject", EMBEDDING),  # the masked crop
    ("background", EMBEDDING),  # the frame with the subject blanked out
    ("phash", STRING),  # of the crop
)

#: A view joined from the tables above: one row per subject, by its best detection.
SUBJECTS: Final = _s(
    ("subject_id", STRING),
    ("clip_id", STRING),
    ("video_id", STRING),
    ("long_video_id", STRING),
    ("kind", STRING),
    ("start_us", INT),  # of the clip
    ("end_us", INT),
    ("phrase", STRING),
    ("phrase_start", INT),
    ("phrase_end", INT),
    ("noun", STRING),
    ("bank", STRING),
    ("detection_id", STRING),
    ("frame_id", STRING),
    ("pts_us", INT),
    ("box", BOX),
    ("area_share", FLOAT),
    ("score", FLOAT),
    ("blur", FLOAT),
    ("frame_phash", STRING),
    ("crop_phash", STRING),
    ("detections", INT),  # on how many sampled frames the phrase was found
    ("embedder", STRING),
    ("embedding", EMBEDDING),
    ("background", EMBEDDING),
    ("face_score", FLOAT),
    ("face_embedder", STRING),
    ("face_embedding", EMBEDDING),
    ("identity_id", STRING),
    ("reason", STRING),
)

#: One row per candidate pair, kept or not; ``rules`` names every rule that it fails.
PAIRS: Final = _s(
    ("target_subject_id", STRING),
    ("reference_subject_id", STRING),
    ("target_clip_id", STRING),
    ("reference_clip_id", STRING),
    ("bank", STRING),
    ("similarity", FLOAT),
    ("face_similarity", FLOAT),
    ("background_similarity", FLOAT),
    ("phash_distance", INT),  # bits between the crops
    ("frame_phash_distance", INT),  # smallest between any two sampled frames of the clips
    ("gap_us", INT),  # between the clips on the source's time line, null across sources
    ("rank", INT),  # among the target's candidates by similarity
    ("rules", pa.list_(STRING)),
    ("accepted", BOOL),
)

REFERENCE: Final = pa.struct(
    [
        pa.field("subject_id", STRING),  # of the target: which phrase it stands for
        pa.field("reference_subject_id", STRING),  # whose pixels they are
        pa.field("detection_id", STRING),
        pa.field("similarity", FLOAT),
        pa.field("face_similarity", FLOAT),
        pa.field("background_similarity", FLOAT),
    ]
)

#: The selection: what will be written.
SAMPLES: Final = _s(
    ("sample_id", STRING),
    ("pair_type", STRING),  # in | cross | image | t2v
    ("clip_id", STRING),
    ("video_id", STRING),
    ("long_video_id", STRING),
    ("split", STRING),  # train | test
    ("heldout", BOOL),
    ("scenario", STRING),
    ("caption", STRING),
    ("shard", STRING),
    ("references", pa.list_(REFERENCE)),
)

#: Rows that could not be measured, and how to try again.
QUARANTINE: Final = _s(
    ("id", STRING),
    ("stage", STRING),
    ("unit", STRING),
    ("error", STRING),  # class or kind
    ("message", STRING),
    ("retry", STRING),
)

TABLES: Final[dict[str, pa.Schema]] = {
    "sources": SOURCES,
    "probe": PROBE,
    "spans": SPANS,
    "clips": CLIPS,
    "frames": FRAMES,
    "quality": QUALITY,
    "captions": CAPTIONS,
    "phrases": PHRASES,
    "detections": DETECTIONS,
    "masks": MASKS,
    "faces": FACES,
    "embeddings": EMBEDDINGS,
    "subjects": SUBJECTS,
    "pairs": PAIRS,
    "samples": SAMPLES,
    "quarantine": QUARANTINE,
}


def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Build a table of a known schema from rows; missing keys become null.

    Raises:
        KeyError: for a table that is not of the contract.
        ValueError: for a column that the schema does not have.
    """
    schema = TABLES[name]
    known = set(schema.names)
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(
                f"table {name!r} has no column {sorted(unknown)}; it has {schema.names}"
            )
    return pa.Table.from_pylist(rows, schema=schema)
