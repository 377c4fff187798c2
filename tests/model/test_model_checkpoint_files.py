"""A stranger's file is opened without running it, and what is wrong with it is one line."""

from __future__ import annotations

import copy
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2v.model.checkpoints import safetensors_file
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import in_folder, open_weights
from s2v.model.checkpoints.writing import Stored, write_file, write_shards
from s2v.model.cli import main
from s2v.model.errors import ModelError

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(2.5, dtype=torch.bfloat16),
    "c": torch.ones(4, dtype=torch.float16),
    "d": torch.arange(3),
}


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def header(file: Path, said: object, data: bytes = b"") -> Path:
    """A safetensors file with any header."""
    raw = json.dumps(said).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return file


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def fails(path: Path) -> str:
    with pytest.raises(ModelError) as error:
        open_weights(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "legacy.pth", "w.whatever"])
def test_every_container_gives_the_same_tensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save(TENSORS, path, _use_new_zipfile_serialization="legacy" not in name)
    else:
        save_file(TENSORS, path)
    weights = open_weights(path)
    assert list(weights.entries) == sorted(TENSORS)
    assert weights.entries["b"] == Entry("bfloat16", ())
    assert weights.parameters == 6 + 1 + 4 + 3
    for key, tensor in TENSORS.items():
        got = weights.read(key)
        assert got.dtype == tensor.dtype
        assert torch.equal(got, tensor)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(wrapper: str, tmp_path: Path) -> None:
    torch.save({wrapper: TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    assert list(open_weights(tmp_path / "w.pth").entries) == sorted(TENSORS)


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for zipped in (True, False):
        path = tmp_path / "m.pth"
        torch.save({"w": TENSORS["c"], "x": Malice(marker)}, path,
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        told = fails(path)
        assert "system" in told
        assert "give safetensors" in told
    assert not marker.exists()


def test_a_bare_pickle_is_not_even_parsed(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"\x80\x04\x95rest")
    assert "bare pickle, which is not opened" in fails(path)


@pytest.mark.parametrize("share", [0.3, 0.95, 0.999])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "legacy.pth"])
def test_a_truncated_file_says_that_it_is_cut_short(
    name: str, share: float, tmp_path: Path
) -> None:
    path = tmp_path / name
    big = {"w": torch.ones(4000), "v": torch.ones(4000)}
    if name.endswith(".pth"):
        torch.save(big, path, _use_new_zipfile_serialization="legacy" not in name)
    else:
        save_file(big, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    told = fails(path)
    assert "cut short" in told
    assert "download it again" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 569\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"hello", "neither safetensors nor a file of torch.save"),
        ((2**60).to_bytes(8, "little") + b"{}", "a header of 1152921504606846976 bytes"),
        ((500).to_bytes(8, "little") + b"{}", "cut short"),
    ],
)  # fmt: skip
def test_what_is_no_weights_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert told in fails(path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"w": {"dtype": "F32", "shape": [2]}}, "'w' wrongly"),
        ({"w": entry("F32", [-1], 0, 4)}, "'w' wrongly"),
        ({"w": entry("F32", [2], 0, 4)}, "4 bytes for shape (2,)"),
        ({"w": entry("F32", [10**9], 0, 4 * 10**9)}, "cut short"),
        ({"w": entry("F4", [2], 0, 1)}, "stored as F4"),
        ({"__metadata__": {"a": 1}, "w": entry("F32", [0], 0, 0)}, "metadata"),
        ({}, "holds no tensor"),
    ],
)
def test_a_header_that_lies_is_refused(said: object, told: str, tmp_path: Path) -> None:
    assert told in fails(header(tmp_path / "model.safetensors", said))


def test_an_unaligned_or_empty_tensor_is_read_as_it_is(tmp_path: Path) -> None:
    data = b"\x01" + torch.arange(3.0).numpy().tobytes()
    said = {"a": entry("U8", [1], 0, 1), "b": entry("F32", [3], 1, 13)}
    said |= {"c": entry("F16", [0, 2], 13, 13)}
    weights = open_weights(header(tmp_path / "w.safetensors", said, data))
    assert torch.equal(weights.read("b"), torch.arange(3.0))
    assert weights.read("c").shape == (0, 2)


def test_writing_to_a_mapped_tensor_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    weights = open_weights(path)
    weights.read("a.weight").add_(1)
    assert path.read_bytes() == before
    assert torch.equal(weights.read("a.weight"), TENSORS["a.weight"])


def test_a_header_is_bounded_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"tensor.{i}": torch.ones(1) for i in range(50)}, path)
    monkeypatch.setattr(safetensors_file, "HEADER_LIMIT", 1000)
    assert "at most 1000 are allowed" in fails(path)


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "hello")
    assert "no data.pkl" in fails(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\0" * 10_000_000)
    assert "compressed" in fails(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"x")
        archive.writestr("w/constants.pkl", b"x")
    assert "TorchScript" in fails(path)


def test_an_archive_that_names_one_member_many_times_is_refused(tmp_path: Path) -> None:
    """A file of a megabyte would be read as a thousand."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (member,) = (m for m in archive.filelist if m.filename.endswith("/data/0"))
        for k in range(1, 9):
            other = copy.copy(member)
            other.filename = other.orig_filename = member.filename.replace("/0", f"/{k}")
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True
    assert "its members are larger than the file" in fails(path)


@pytest.mark.parametrize("loaded", [[torch.ones(2)], {"a": 1}, {}, {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_says_where_it_was_looked_for(
    loaded: object, tmp_path: Path
) -> None:
    torch.save(loaded, tmp_path / "w.pth")
    assert "no mapping of names to tensors" in fails(tmp_path / "w.pth")


def test_shards_are_one_mapping_with_and_without_their_index(tmp_path: Path) -> None:
    tensors = {k: Stored(Entry(str(v.dtype)[6:], tuple(v.shape)), lambda v=v: v)
               for k, v in TENSORS.items()}  # fmt: skip
    written = write_shards(tmp_path, "Phantom_Wan_14B", tensors, {"format": "pt"}, limit=24)
    assert written[-1].name == "Phantom_Wan_14B.safetensors.index.json"
    assert len(written) == 4
    total = json.loads(written[-1].read_text())["metadata"]["total_size"]
    assert total == sum(t.numel() * t.element_size() for t in TENSORS.values())
    for opened in (open_weights(written[-1]), *in_folder(tmp_path)):
        assert opened.container == "sharded safetensors"
        assert all(torch.equal(opened.read(k), v) for k, v in TENSORS.items())
    written[-1].unlink()
    without = in_folder(tmp_path)
    assert len(without) == 1
    assert list(without[0].entries) == sorted(TENSORS)
    written[1].unlink()
    with pytest.raises(ModelError, match="number 2 is missing"):
        in_folder(tmp_path)


def index(path: Path, where: object) -> Path:
    path.write_text(json.dumps({"weight_map": where}))
    return path


def test_an_index_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    save_file(TENSORS, tmp_path / "secret.safetensors")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", "a\\b.bin"):
        told = fails(index(inside / "w.safetensors.index.json", {"a.weight": name}))
        assert "outside its folder" in told
    told = fails(index(inside / "w.safetensors.index.json", {"a": "run.sh"}))
    assert "no file of weights" in told


def test_an_index_that_does_not_match_its_shards_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors.index.json"
    assert "shards are not beside it" in fails(index(path, {"a": "one.safetensors"}))
    save_file(TENSORS, tmp_path / "one.safetensors")
    assert "no shard holds" in fails(index(path, {"zzz": "one.safetensors"}))
    save_file({"d": torch.ones(2)}, tmp_path / "two.safetensors")
    told = index(path, {"a.weight": "one.safetensors", "d": "two.safetensors"})
    with pytest.raises(ModelError, match=r"d is also in one\.safetensors"):
        open_weights(told)
    assert "no weight_map" in fails(index(path, {}))
    path.write_text("{")
    assert "broken JSON" in fails(path)


def test_our_writer_gives_what_the_library_reads_and_the_same_bytes_twice(tmp_path: Path) -> None:
    tensors = {k: Stored(Entry(str(v.dtype)[6:], tuple(v.shape)), lambda v=v: v)
               for k, v in TENSORS.items()}  # fmt: skip
    for name in ("one", "two"):
        order = dict(sorted(tensors.items(), reverse=name == "two"))
        write_file(tmp_path / name, order, {"format": "pt", "a": "b"})
    read = load_file(tmp_path / "one")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in TENSORS.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Phantom-Wan-1.3B.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert main(["inspect", str(path)]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "git lfs pull" in told.err
