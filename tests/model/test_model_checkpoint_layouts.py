"""The same network comes out of every layout, and what does not fit is listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from s2v.model.checkpoints import identify as ident
from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.checkpoints.loading import find, load_wan
from s2v.model.checkpoints.weights import open_weights
from s2v.model.errors import ModelError
from s2v.model.export.layouts import diffusers_config
from s2v.model.inspection import describe
from s2v.model.wan import WanModel
from s2v.model.wan_config import PRESETS, WanConfig

State = dict[str, torch.Tensor]
LAYOUTS = ("pth", "safetensors", "comfyui", "shards", "diffusers", "pipeline", "wrapped")


def write(layout: str, model: WanModel, folder: Path) -> Path:
    """A checkpoint as its users have it."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if layout == "pth":
        torch.save(state, folder / "Phantom-Wan-1.3B.pth")
        return folder / "Phantom-Wan-1.3B.pth"
    if layout == "wrapped":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "w.pt")
        return folder / "w.pt"
    if layout in ("safetensors", "comfyui"):
        prefix = "model.diffusion_model." if layout == "comfyui" else ""
        save_file({prefix + k: v for k, v in state.items()}, folder / "w.safetensors")
        return folder / "w.safetensors"
    if layout == "shards":
        return shards(state, folder, "Phantom_Wan_14B")
    place = folder / "transformer" if layout == "pipeline" else folder
    place.mkdir(exist_ok=True)
    renamed = {str(WAN_DIFFUSERS.there(k)): v for k, v in state.items()}
    shards(renamed, place, "diffusion_pytorch_model")
    (place / "config.json").write_text(json.dumps(diffusers_config(model.config)))
    return folder


def shards(state: State, folder: Path, base: str) -> Path:
    names = sorted(state)
    halves = [names[::2], names[1::2]]
    where = {}
    for i, part in enumerate(halves, 1):
        file = f"{base}-{i:05d}-of-00002.safetensors"
        save_file({n: state[n] for n in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = folder / f"{base}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


@pytest.mark.parametrize("variant", ["t2v", "image tokens", "first and last frame"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(
    layout: str, variant: str, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    options: dict[str, Any] = {} if variant == "t2v" else {"image_width": 10}
    if variant.startswith("first"):
        options |= {"image_positions": 6, "in_channels": 36}
    model = wan(**options)
    loaded = load_wan(write(layout, model, tmp_path), heads=2)
    assert loaded.config.model_copy(update={"text_tokens": 16}) == model.config
    got, expected = loaded.state_dict(), model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[k], expected[k]) for k in expected)
    assert not any(p.is_meta for p in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_types_stay_as_stored_or_become_what_is_asked(
    dtype: torch.dtype, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    model = wan().to(dtype)
    path = write("safetensors", model, tmp_path)
    assert {p.dtype for p in load_wan(path, heads=2).parameters()} == {dtype}
    as_float = load_wan(path, heads=2, dtype=torch.float32)
    expected = model.head.head.weight.float()
    assert torch.equal(as_float.head.head.weight, expected)
    assert describe(path)["dtypes"] == {str(dtype).removeprefix("torch."): len(model.state_dict())}


def test_loading_maps_the_file_and_copies_nothing(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    path = write("safetensors", wan(), tmp_path)
    loaded = load_wan(path, heads=2)
    maps = [
        tuple(int(x, 16) for x in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(path) in line
    ]
    for name, parameter in loaded.named_parameters():
        at = parameter.data_ptr()
        assert any(low <= at < high for low, high in maps), name


def resident() -> float:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1])


def test_the_released_sizes_are_read_off_shapes(tmp_path: Path) -> None:
    """1.3B, 14B and I2V-14B at their real shapes, from headers without data."""
    known = {"wan-t2v-1.3b": 1_418_996_800, "wan-t2v-14b": 14_288_491_584,
             "wan-i2v-14b": 16_394_878_784}  # fmt: skip
    for name, parameters in known.items():
        with torch.device("meta"):
            state = WanModel(PRESETS[name]).state_dict()
        at, header = 0, {}
        for key, tensor in state.items():
            header[key] = {"dtype": "F32", "shape": list(tensor.shape),
                           "data_offsets": [at, at + 4 * tensor.numel()]}  # fmt: skip
            at += 4 * tensor.numel()
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)  # as all writers do: unaligned tensors would be copied
        path = tmp_path / f"{name}.safetensors"
        with path.open("wb") as handle:  # a sparse file: it takes no room
            handle.write(len(raw).to_bytes(8, "little") + raw)
            handle.truncate(8 + len(raw) + at)
        facts = describe(path, digest=False)
        assert facts["parameters"] == parameters
        weights, identity = find(path, ident.WAN)
        assert ident.wan_config(weights, identity) == PRESETS[name]
        assert ("1.3B" in facts["model"]) == ("1.3b" in name)
        if "1.3b" in name:  # 5.7 GB of parameters take memory when they are used, not before
            before = resident()
            loaded = load_wan(path)
            assert sum(p.numel() for p in loaded.parameters()) == parameters
            assert resident() - before < 200e6
        assert facts["references"] == (0 if "i2v" in name else "0-4 at the tail of time")


@pytest.mark.parametrize("image", [False, True])
def test_our_converter_and_the_one_of_diffusers_agree(
    image: bool, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    from diffusers import WanTransformer3DModel

    model = wan(**({"image_width": 10} if image else {}))
    path = write("comfyui", model, tmp_path)
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(diffusers_config(model.config)))
    theirs = WanTransformer3DModel.from_single_file(
        str(path), config=str(folder), local_files_only=True, torch_dtype=torch.float32
    ).state_dict()
    ours = {WAN_DIFFUSERS.there(k): v for k, v in model.state_dict().items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_names_go_there_and_back() -> None:
    with torch.device("meta"):
        model = WanModel(PRESETS["wan-i2v-14b"].model_copy(update={"image_positions": 514}))
    names = set(model.state_dict())
    there = {n: WAN_DIFFUSERS.there(n) for n in names}
    assert None not in there.values()
    assert len(set(there.values())) == len(names)
    assert {WAN_DIFFUSERS.back(str(v)) for v in there.values()} == names
    assert WAN_DIFFUSERS.there("blocks.0.self_attn.x.weight") is None
    assert WAN_DIFFUSERS.there("head.modulation.weight") is None


def test_what_does_not_fit_is_listed_and_counted(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    state = {k: v.clone() for k, v in wan().state_dict().items()}
    del state["blocks.1.norm3.weight"]
    state["blocks.0.ffn.2.bias"] = torch.zeros(7)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(ModelError) as error:
        load_wan(path, heads=2)
    told = str(error.value)
    assert "w.safetensors: does not fit WanModel" in told
    assert "1 missing: blocks.1.norm3.weight" in told
    assert "9 unexpected: extra.0, extra.1, extra.2, extra.3 and 5 more" in told
    assert "1 of another shape: blocks.0.ffn.2.bias 7 for 24" in told
    state["blocks.0.ffn.2.bias"] = torch.zeros(24)
    save_file(state, path)
    loaded = load_wan(path, heads=2, missing=["blocks.*.norm3.weight"], unexpected=["extra.*"])
    assert torch.equal(loaded.blocks[1].norm3.weight, torch.ones(24))


def test_t2v_weights_take_an_image_branch_that_starts_with_no_effect(
    wan: Callable[..., WanModel], tmp_path: Path, condition: Callable[..., Any]
) -> None:
    model = wan()
    path = write("safetensors", model, tmp_path)
    half = {k: v.clone() for k, v in model.state_dict().items()}
    half |= {k: v for k, v in wan(image_width=10).state_dict().items() if "img_emb" in k}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match=r"missing: blocks\.0\.cross_attn\.k_img"):
        load_wan(tmp_path / "half.safetensors", heads=2)
    grown = load_wan(path, heads=2, options={"image_width": 10, "text_tokens": 16})
    again = load_wan(path, heads=2, options={"image_width": 10, "text_tokens": 16})
    x, told = torch.randn(1, 16, 2, 4, 6), condition(2)
    assert torch.allclose(grown(x, torch.tensor([0.3]), told),
                          model(x, torch.tensor([0.3]), told), atol=1e-6)  # fmt: skip
    assert torch.equal(grown.img_emb.proj[1].weight, again.img_emb.proj[1].weight)
    assert grown.img_emb.proj[1].weight.abs().max() > 0


@pytest.fixture
def condition() -> Callable[..., Any]:
    """Text and references of a batch of one."""
    from s2v.model.conditioning import Condition

    def make(k: int) -> Condition:
        random = torch.Generator().manual_seed(k)
        return Condition(
            text=torch.randn(1, 5, 20, generator=random),
            text_mask=torch.ones(1, 5, dtype=torch.bool),
            references=torch.randn(1, 16, k, 4, 6, generator=random),
            reference_mask=torch.ones(1, k, dtype=torch.bool),
            image=torch.randn(1, k, 3, 10, generator=random),
            image_mask=torch.ones(1, k, dtype=torch.bool),
        )

    return make


FOREIGN = {
    "Stable Diffusion 3": ["joint_blocks.0.x_block.attn.qkv.weight", "pos_embed"],
    "HunyuanVideo": ["txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.x"],
    "FLUX": ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"],
    "Stable Diffusion 1, 2 or XL": ["model.diffusion_model.input_blocks.0.0.weight"],
    "a LoRA": ["transformer.blocks.0.attn1.to_q.lora_A.weight"],
    "not known here": ["something.weight"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_models_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    save_file({k: torch.zeros(2, 2) for k in FOREIGN[name]}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"not a Wan2\.1 or Phantom-Wan network") as error:
        load_wan(tmp_path / "m.safetensors")
    assert name in str(error.value)


def test_vace_and_other_offspring_of_wan_are_not_taken_for_it(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    state = wan().state_dict() | {"vace_blocks.0.after_proj.bias": torch.zeros(2)}
    save_file(state, tmp_path / "v.safetensors")
    with pytest.raises(ModelError, match=r"Wan2\.1 VACE, not"):
        load_wan(tmp_path / "v.safetensors")


def test_quantised_weights_and_unknown_heads_say_what_is_needed(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    path = write("safetensors", wan(), tmp_path)
    with pytest.raises(ModelError, match="width 24 is no multiple of 128"):
        load_wan(path)
    state = {k: v.to(torch.float8_e4m3fn) for k, v in wan().state_dict().items()}
    save_file(state, tmp_path / "q.safetensors")
    with pytest.raises(ModelError, match="stored as float8_e4m3fn; give bf16"):
        load_wan(tmp_path / "q.safetensors", heads=2)


def test_gaps_between_blocks_are_no_network(wan: Callable[..., WanModel], tmp_path: Path) -> None:
    state = {re.sub(r"^blocks\.1\.", "blocks.99999.", k): v for k, v in wan().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="layers"):
        load_wan(tmp_path / "w.safetensors", heads=2)


def test_a_folder_of_several_models_gives_the_one_that_is_meant(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    """Wan's own folders hold the network, the text encoder and the VAE side by side."""
    model = wan()
    write("safetensors", model, tmp_path)
    torch.save({"token_embedding.weight": torch.zeros(4, 4),
                "blocks.0.attn.q.weight": torch.zeros(4, 4)},
               tmp_path / "models_t5.pth")  # fmt: skip
    assert torch.equal(load_wan(tmp_path, heads=2).head.head.bias, model.head.head.bias)
    facts = describe(tmp_path)
    assert facts["kind"] == "folder"
    assert facts["models_t5.pth"]["kind"] == "umt5"
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04")
    assert load_wan(tmp_path, heads=2).config.layers == 2
    assert describe(tmp_path)["training_args.bin"]["kind"] == "unreadable"
    (tmp_path / "training_args.bin").unlink()
    write("pth", model, tmp_path)
    with pytest.raises(ModelError, match=r"holds 2 .*Phantom-Wan-1\.3B\.pth, w\.safetensors"):
        load_wan(tmp_path, heads=2)
    (tmp_path / "w.safetensors").unlink()
    (tmp_path / "Phantom-Wan-1.3B.pth").unlink()
    with pytest.raises(ModelError, match=r"holds models_t5\.pth: umT5 encoder"):
        load_wan(tmp_path, heads=2)


def test_inspect_says_what_a_file_is(wan: Callable[..., WanModel], tmp_path: Path) -> None:
    facts = describe(write("comfyui", wan(), tmp_path))
    expected = {
        "kind": "wan", "layout": "comfyui", "layers": 2, "width": 24, "ffn": 40, "text_width": 20,
        "in_channels": 16, "image_width": None, "heads": None,
    }  # fmt: skip
    assert {k: facts[k] for k in expected} == expected
    assert len(facts["files"]["w.safetensors"]) == 64
    assert "Phantom-Wan" in facts["model"]
    assert open_weights(tmp_path / "w.safetensors").parameters == facts["parameters"]
    assert WanConfig().layers == 30


def test_inspect_says_whether_the_network_takes_the_file(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    state = wan(width=128, heads=1).state_dict()
    half = {k: v.to(torch.float8_e4m3fn) for k, v in state.items()}
    cases = {
        "yes": state,
        "no: does not fit WanModel: 1 unexpected: extra": {**state, "extra": torch.zeros(2)},
        "no: does not fit WanModel: 4 missing: blocks.0.norm3.bias": {
            k: v for k, v in state.items() if "norm3" not in k
        },
        "is stored as float8_e4m3fn": half,
    }
    for n, (said, tensors) in enumerate(cases.items()):
        save_file(tensors, tmp_path / f"{n}.safetensors")
        assert said in describe(tmp_path / f"{n}.safetensors")["loads"]
    with pytest.raises(ModelError, match="neither a file nor a folder"):
        describe(Path("/dev/null"))


def test_heads_are_read_from_the_folders_config(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    """Heads of 12 are in no released network: only ``config.json`` tells them."""
    folder = write("diffusers", wan(), tmp_path)
    assert load_wan(folder).config.heads == 2
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="heads"):
        load_wan(folder)
