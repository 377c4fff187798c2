"""Arrow schema of the tables that the selection makes of what was measured; see ``records``."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from s2v.datapipe.base.columns import BOOL, BOX, FLOAT, INT, NAME, STRING, schema

#: A view joined from what was measured: one row per subject, by its best detection. It names
#: its vectors and does not hold them: a million subjects' would be 11 GB.
SUBJECTS: Final = schema(
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
    ("class", STRING),  # as in table phrases, never null; told anew at every selection
    ("class_source", STRING),  # who said so: origin | extractor | words | bank
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
    ("embedder", STRING),  # of its vectors, which are in EMBEDDINGS by ``detection_id``
    ("face", INT),  # a person's usable face: its row in FACES by ``frame_id`` and this number
    ("face_score", FLOAT),
    ("face_embedder", STRING),
    ("face_phash", STRING),  # of the face crop
    ("face_yaw", FLOAT),  # degrees
    ("identity_id", STRING),
    ("reason", STRING),
)

#: One row per candidate pair, kept or not; ``rules`` names every rule that it fails.
PAIRS: Final = schema(
    ("target_subject_id", NAME),
    ("reference_subject_id", NAME),
    ("target_clip_id", NAME),
    ("reference_clip_id", NAME),
    ("bank", NAME),
    ("search", NAME),  # all | copy | faces | joint | own; docs/pairs.md
    ("similarity", FLOAT),
    ("face_similarity", FLOAT),
    ("joint_similarity", FLOAT),  # of body and face together; people with a face
    ("background_similarity", FLOAT),
    ("phash_distance", INT),  # bits between the crops
    ("face_phash_distance", INT),  # bits between the face crops
    ("frame_phash_distance", INT),  # smallest between any two sampled frames of the clips
    ("gap_us", INT),  # between the clips on the source's time line, null across sources
    ("rank", INT),  # among the target's candidates by similarity
    ("same_identity", STRING),  # the verifier's yes | no | unsure; null: not asked
    ("different_context", STRING),
    ("rules", pa.list_(pa.dictionary(pa.int8(), STRING))),
    ("accepted", BOOL),
)

#: What a second model said of a pair (Phantom-Data, step 3). A pair has no direction, so it is
#: asked about once: its target is the one whose detection id comes first.
VERDICTS: Final = schema(
    ("verdict_id", STRING),  # 20 hex over the prompt and what was shown of both sides
    ("target_detection_id", STRING),
    ("reference_detection_id", STRING),
    ("target_subject_id", STRING),
    ("reference_subject_id", STRING),
    ("class", STRING),  # whose prompt was used
    ("verifier", STRING),  # model id
    ("prompt", STRING),  # id and version
    ("prompt_sha256", STRING),
    ("same_identity", STRING),  # yes | no | unsure; null: quarantined
    ("different_context", STRING),
    ("note", STRING),  # the model's reason, in its words
    ("attempts", INT),
    ("reason", STRING),  # why there is no answer
)

REFERENCE: Final = pa.struct(
    [
        pa.field("subject_id", STRING),  # of the target: which phrase it stands for
        pa.field("reference_subject_id", STRING),  # whose pixels they are
        pa.field("detection_id", STRING),
        pa.field("similarity", FLOAT),
        pa.field("face_similarity", FLOAT),
        pa.field("background_similarity", FLOAT),
        pa.field("distance_us", INT),  # its frame from the trained span; null in another file
    ]
)

#: The selection: what will be written.
SAMPLES: Final = schema(
    ("sample_id", STRING),
    ("pair_type", STRING),  # in | cross | image | t2v
    ("clip_id", STRING),
    ("video_id", STRING),
    ("long_video_id", STRING),
    ("split", STRING),  # train | test
    ("heldout", BOOL),
    ("scenario", STRING),  # one of pair/scenario.py, by the classes of its references
    ("caption", STRING),
    ("shard", STRING),
    ("references", pa.list_(REFERENCE)),
)
