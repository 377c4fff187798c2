"""The S3 server of the object-store tests is a real one: it keeps bytes and checks keys."""

from __future__ import annotations

import pytest
from pyarrow.fs import FileSelector, FileType
from s3_server import S3Server


def test_what_is_put_is_got_whole_and_by_range(s3: S3Server, s3_bucket: str) -> None:
    store = s3.filesystem()
    content = bytes(range(256)) * 24 * 1024  # 6 MB: more than one part of a multipart upload
    with store.open_output_stream(f"{s3_bucket}/films/a b é.mp4") as out:
        out.write(content)
    with store.open_input_file(f"{s3_bucket}/films/a b é.mp4") as file:
        assert file.size() == len(content)
        assert file.read_at(300, 5_000_000) == content[5_000_000:5_000_300]
        assert file.read() == content
    found = store.get_file_info(FileSelector(s3_bucket, recursive=True))
    files = [info.path for info in found if info.type == FileType.File]
    assert files == [f"{s3_bucket}/films/a b é.mp4"]
    assert s3.new_bucket() != s3_bucket


def test_a_wrong_key_reads_and_writes_nothing(s3: S3Server, s3_bucket: str) -> None:
    with s3.filesystem().open_output_stream(f"{s3_bucket}/private") as out:
        out.write(b"not for everybody")
    stranger = s3.filesystem(secret="0" * 32)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        stranger.get_file_info(f"{s3_bucket}/private")
    with (
        pytest.raises(OSError, match=r"(?i)signature|ACCESS_DENIED"),
        stranger.open_output_stream(f"{s3_bucket}/theirs") as out,
    ):
        out.write(b"x")
    missing = s3.filesystem().get_file_info(f"{s3_bucket}/theirs")
    assert missing.type == FileType.NotFound
