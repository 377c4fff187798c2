"""The first bytes of a file: what it is not, before a parser is let near it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from s2v.model.errors import ModelError

Container = Literal["safetensors", "torch zip", "torch legacy"]

SUFFIXES: Final = frozenset({".safetensors", ".sft", ".pth", ".pt", ".bin", ".ckpt"})
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_ZIP: Final = b"PK\x03\x04"
# A pickle (protocol 2) of torch's magic number 0x1950a86a20f9469cfc6c begins every file that
# torch wrote before 1.6.
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_JSON: Final = b"{"


def container(path: Path) -> Container:
    """How the file is packed, by its content; its name is not asked.

    Raises:
        ModelError: no such file, an empty one, or one that holds no weights: a Git LFS pointer,
            a web page, GGUF, a bare pickle, anything else.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(512)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    if size == 0:
        raise ModelError(f"{path}: is empty; download it again")
    if head.startswith(_ZIP):
        return "torch zip"
    if head.startswith(_LEGACY):
        return "torch legacy"
    if len(head) > 8 and head[8:9] == _JSON:
        return "safetensors"
    raise ModelError(f"{path}: {_why(head)}")


def _why(head: bytes) -> str:
    text = head.lstrip().lower()
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the file it points to; run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, saved where weights were meant; download it again, signed in if need be"
    if head.startswith(b"GGUF"):
        return "quantised weights (GGUF); give the bf16, fp16 or fp32 safetensors of the same model"
    if head[:1] == b"\x80":
        return (
            "a bare pickle, which is not opened: it can run code; "
            "give safetensors, or a file written by torch.save"
        )
    return "neither safetensors nor a file of torch.save; give one of these"
