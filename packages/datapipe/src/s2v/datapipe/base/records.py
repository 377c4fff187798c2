"""Arrow schema of every table of a run, with units.

Here stand the tables that are measured; those that the selection makes of them stand in
``selected``, and this module knows them too. One place says what a column means.
``*_us`` are microseconds of presentation time, boxes are ``[x0, y0, x1, y1]`` in pixels of the
displayed frame (after rotation and sample aspect ratio), embeddings are L2-normalised float32,
masks are COCO run-length encodings of the displayed frame, scores are rounded before they are
stored.

Rows are never deleted: a row with a ``reason`` was dropped, and the reason says by which
rule. ``null`` in a score column means *not measured*.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from s2v.datapipe.base.columns import BOOL, BOX, EMBEDDING, FLOAT, INT, STRING, schema
from s2v.datapipe.base.selected import PAIRS, REFERENCE, SAMPLES, SUBJECTS, VERDICTS

__all__ = [
    "CAPTIONS",
    "CHECKS",
    "CLIPS",
    "DETECTIONS",
    "EMBEDDING",
    "EMBEDDINGS",
    "FACES",
    "FRAMES",
    "MARKS",
    "MASKS",
    "OVERLAYS",
    "PAIRS",
    "PEOPLE",
    "PHRASES",
    "PROBE",
    "QUALITY",
    "QUARANTINE",
    "REFERENCE",
    "SAMPLES",
    "SOURCES",
    "SPANS",
    "STILLS",
    "SUBJECTS",
    "TABLES",
    "VERDICTS",
    "table",
]

#: One row per source. A photograph is a source with ``kind == "image"`` and one clip.
SOURCES: Final = schema(
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
    ("etag", STRING),  # identity of a remote object, known without its bytes; null for files
    ("bytes", INT),
    ("duplicate_of", STRING),  # an earlier source with the same bytes
    ("offset_us", INT),  # where the file begins in its long video, if known
    ("from_us", INT),  # the part of the file to use; null: from its beginning
    ("to_us", INT),  # null: to its end
    ("pair_key", STRING),  # of an image bank: pictures of one subject share it
    ("given_caption", STRING),  # of an image bank or manifest, as given
    ("minors", STRING),  # none | possible | unverified, as stated
    ("face_policy", STRING),  # allowed | no faces | unverified, as stated
)

#: What probing found, one row per readable source.
PROBE: Final = schema(
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
SPANS: Final = schema(
    ("video_id", STRING),
    ("start_us", INT),
    ("end_us", INT),
    ("clip_id", STRING),  # null for a dropped span
    ("reason", STRING),  # null for a clip
)

#: Clips and what the sequential scan measured on small frames.
CLIPS: Final = schema(
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
    ("luma", FLOAT),  # mean of the film's own luma, 0..1
    ("luma_std", FLOAT),  # contrast, mean over frames, 0..1
    ("freeze", FLOAT),  # share of the clip's time in which the picture stands still
    ("black", FLOAT),  # share of near-black frames
    ("motion_peak", FLOAT),  # 95th percentile of the same amplitude
    ("content", BOX),  # the picture inside black borders, displayed pixels; null: no borders
    ("marks", pa.list_(BOX)),  # logos seen over the whole window, displayed pixels; null: unknown
    ("starts_with", STRING),  # what bounds it: cut | gradual | length | window | source
    ("ends_with", STRING),
    ("crop", BOX),  # of table overlays, set when tables are read; width and height are then its
)

#: Frames kept at full size while a window was scanned, so that its film is decoded once.
STILLS: Final = schema(
    ("video_id", STRING),
    ("clip_id", STRING),
    ("position", FLOAT),  # share of the clip that it stands for
    ("pts_us", INT),  # the kept frame nearest to that moment
    ("tar", STRING),  # path below the run folder
    ("offset", INT),
    ("size", INT),
    ("phash", STRING),  # of what the scan saw at the very moment, not of the kept frame
    ("phash_mirror", STRING),
)

#: Sampled frames (5, 50, 95 % of the clip), stored once as JPEG members of a tar.
FRAMES: Final = schema(
    ("frame_id", STRING),
    ("clip_id", STRING),
    ("position", FLOAT),  # share of the clip
    ("pts_us", INT),
    ("width", INT),
    ("height", INT),
    ("tar", STRING),  # path below the run folder
    ("offset", INT),
    ("size", INT),
    ("phash", STRING),  # 64-bit perceptual hash, 16 hex; of a still, at the position's moment
    ("blur", FLOAT),  # variance of the Laplacian at 480 px short side
    ("saturation", FLOAT),  # 0..1
    ("phash_mirror", STRING),  # of the frame mirrored left to right
    ("crop", BOX),  # of table overlays, set when tables are read; width and height are then its
)

#: What lies over the picture, and the part of the frame that is used. All later stages see the
#: stored frames cut to ``crop``, and boxes count from its corner; so does the clip that is written.
OVERLAYS: Final = schema(
    ("clip_id", STRING),
    ("content", BOX),  # the picture inside black borders, displayed pixels; null: no borders
    ("text_boxes", pa.list_(BOX)),  # of all sampled frames, displayed pixels
    ("text_share", FLOAT),  # share of the whole frame under text, largest of the sampled frames
    ("subtitle_share", FLOAT),  # the part of it that changes and lies in the lower third
    ("watermark_share", FLOAT),  # share of the frame under what stays the same on all frames
    ("crop", BOX),  # even whole pixels of the displayed frame; null: the whole frame
    ("crop_kept", FLOAT),  # share of the frame's area inside the crop, 1 without
)

#: Per-clip quality beyond the scan.
QUALITY: Final = schema(
    ("clip_id", STRING),
    ("text_share", FLOAT),  # share of the cropped frame inside text boxes, largest of the frames
    ("watermark_share", FLOAT),  # share of the cropped frame under a static overlay
    ("subtitle_share", FLOAT),  # share of the cropped frame under changing text of its lower third
    ("blur", FLOAT),  # variance of the Laplacian at 480 px short side, median of the frames
    ("blockiness", FLOAT),  # excess of differences on the 8-pixel grid, 0 none
    ("exposure_low", FLOAT),  # share of crushed pixels, 0..1
    ("exposure_high", FLOAT),  # share of blown pixels, 0..1
    ("saturation", FLOAT),  # 0..1
    ("niqe", FLOAT),  # naturalness image quality evaluator, lower is better
    ("nsfw", FLOAT),  # 0..1
    ("aesthetic", FLOAT),  # null in the embedded profile: no model exists for it
    ("gate", STRING),  # "not measured: gate X" where one stopped the clip; never stored as measured
)

CAPTIONS: Final = schema(
    ("clip_id", STRING),
    ("caption", STRING),
    ("captioner", STRING),  # model id
    ("prompt_sha256", STRING),
    ("facts", STRING),  # JSON of the measured facts a composed caption rests on
    ("attempts", INT),  # how often a served model was asked until its answer was valid
)

#: One row per subject phrase of a caption.
PHRASES: Final = schema(
    ("subject_id", STRING),
    ("clip_id", STRING),
    ("phrase", STRING),
    ("start", INT),  # character span in the caption
    ("end", INT),
    ("noun", STRING),
    ("bank", STRING),  # person | creature | thing
    ("class", STRING),  # human | animal | clothes | product | landmark | ip_character | other
    ("reason", STRING),
)

DETECTIONS: Final = schema(
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

#: A second model's word on a box (Phantom-Data, section 3): null where it did not say.
CHECKS: Final = schema(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("checker", STRING),  # model id
    ("prompt_sha256", STRING),
    ("complete", BOOL),  # the whole subject is in the box
    ("specific", BOOL),  # not a vague thing, such as trees or rocks
    ("matches", BOOL),  # it is what the phrase says
    ("match_score", FLOAT),
    (
        "mark",
        BOOL,
    ),  # a complete, recognisable logo or text; asked of products only
)

#: What is written on a product (Phantom-Data, step 3), one row per box of a product.
MARKS: Final = schema(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("reader", STRING),  # model id
    ("text_share", FLOAT),  # share of the box's pixels inside lines that could be read
    ("text", STRING),  # the line that says most: letters times score; null: none
    ("text_score", FLOAT),  # mean probability of its letters, 0..1
)

MASKS: Final = schema(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("rle", STRING),
    ("rle_height", INT),
    ("rle_width", INT),
    ("area_share", FLOAT),  # mask pixels / frame pixels
    ("box_fill", FLOAT),  # mask pixels / box pixels
    ("touches_border", BOOL),
    ("score", FLOAT),  # the segmenter's own, null where it has none
    ("reason", STRING),
)

FACES: Final = schema(
    ("clip_id", STRING),
    ("frame_id", STRING),
    ("face", INT),  # n-th on the frame
    ("detection_id", STRING),  # the person box it lies in, or null
    ("box", BOX),
    ("points", pa.list_(pa.float32(), 10)),  # 5 landmarks, x y x y ...
    ("score", FLOAT),
    ("embedder", STRING),
    ("embedding", EMBEDDING),
    ("containment", FLOAT),  # share of the face inside its person's box
    ("yaw", FLOAT),  # degrees, 0 frontal, positive to the viewer's right
    ("pitch", FLOAT),  # degrees, positive up
    ("roll", FLOAT),  # degrees, clockwise
    ("sharpness", FLOAT),  # variance of the Laplacian of the face at 112 px
    ("phash", STRING),  # of the face crop
)

#: Who is there, per clip (Concat-ID): stable counts and one person staying the same.
PEOPLE: Final = schema(
    ("clip_id", STRING),
    ("frames", INT),  # sampled frames looked at
    ("persons", INT),  # most frequent count of people, by boxes and faces
    ("count_stable", FLOAT),  # share of frames with that count
    ("same_person", FLOAT),  # share of consecutive frame pairs whose main faces agree
)

EMBEDDINGS: Final = schema(
    ("detection_id", STRING),
    ("clip_id", STRING),
    ("embedder", STRING),
    ("subject", EMBEDDING),  # the masked crop
    ("background", EMBEDDING),  # the frame with the subject blanked out
    ("phash", STRING),  # of the crop
)

#: Rows that could not be measured, and how to try again.
QUARANTINE: Final = schema(
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
    "stills": STILLS,
    "frames": FRAMES,
    "overlays": OVERLAYS,
    "quality": QUALITY,
    "captions": CAPTIONS,
    "phrases": PHRASES,
    "detections": DETECTIONS,
    "checks": CHECKS,
    "marks": MARKS,
    "masks": MASKS,
    "faces": FACES,
    "people": PEOPLE,
    "embeddings": EMBEDDINGS,
    "subjects": SUBJECTS,
    "pairs": PAIRS,
    "verdicts": VERDICTS,
    "samples": SAMPLES,
    "quarantine": QUARANTINE,
}


def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Build a table of a known schema from rows; missing keys become null.

    Raises:
        KeyError: for a table that is not of the contract.
        ValueError: for a column that the schema does not have.
    """
    wanted = TABLES[name]
    known = set(wanted.names)
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(
                f"table {name!r} has no column {sorted(unknown)}; it has {wanted.names}"
            )
    return pa.Table.from_pylist(rows, schema=wanted)
