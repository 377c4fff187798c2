"""Production models made tiny: real classes, random seeded weights, written to disk.

They go through the same adapters as published checkpoints. What they answer means nothing; that
they load, run, agree with themselves and fail clearly does. Same seed, same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

#: Words of the tests' phrases. BERT's uncased vocabulary has its separators at these ids, which
#: both Grounding DINO code bases have written into them.
WORDS = [
    *("a", "an", "the", "in", "with", "on", "and", "larger", "smaller", "young", "old"),
    *("man", "woman", "person", "animal", "cat", "dog", "rabbit", "car", "bus"),
    *("red", "blue", "green", "white", "grey", "shirt", "dress", "hat", "##s", "##ing"),
]
SEPARATOR_IDS = {"[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
FIRST_WORD = 1030

BERT = {
    "vocab_size": FIRST_WORD + len(WORDS) + 26 * 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}

#: Sizes of a SAM of 128 pixels, as the adapter's option ``architecture`` takes them.
SAM_ARCHITECTURE = {
    "image_size": 128,
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 2,
    "heads": 2,
    "global_attention": [1],
    "window": 4,
    "channels": 32,
    "decoder_heads": 2,
    "decoder_mlp": 64,
}


def vocabulary() -> list[str]:
    """A small WordPiece vocabulary with BERT's separators where BERT has them."""
    tokens = [f"[unused{n}]" for n in range(FIRST_WORD)]
    tokens[0] = "[PAD]"
    for token, number in SEPARATOR_IDS.items():
        tokens[number] = token
    letters = [chr(ord("a") + n) for n in range(26)]
    return [*tokens, *WORDS, *(c for c in letters if c not in WORDS), *(f"##{c}" for c in letters)]


def write_tokenizer(folder: Path) -> Path:
    """``vocab.txt`` and ``tokenizer_config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    told = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def write_grounding_dino(folder: Path, seed: int = 0, one_large: bool = False) -> Path:
    """A Grounding DINO of transformers: tiny Swin, tiny BERT, two layers each way.

    Args:
        folder: where the model goes.
        seed: of the weights.
        one_large: find one box of about half the frame per image, for whole runs in which
            something has to survive; else twelve boxes of many sizes.
    """
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection
    from transformers.models.grounding_dino import GroundingDinoImageProcessor

    write_tokenizer(folder)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "window_size": 4,
            "image_size": 96,
            "out_indices": [2, 3, 4],
        },
        text_config={"model_type": "bert", **BERT},
        num_queries=1 if one_large else 12,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=4,
        max_text_len=64,
    )
    torch.manual_seed(seed)
    net = GroundingDinoForObjectDetection(config).eval()
    scramble(net, seed, ("bbox_embed", "enc_output", "query_position", "text_projection"), 1.0)
    if one_large:
        with torch.no_grad():
            for head in net.bbox_embed:
                head.layers[-1].weight.mul_(0.1)
                head.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, 4.0, 4.0]))
    net.save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(
        folder
    )
    return folder


def write_sam(path: Path, seed: int = 0) -> Path:
    """A Segment Anything checkpoint of :data:`SAM_ARCHITECTURE`."""
    from s2v.datapipe.backends.segment_anything import Architecture, build

    torch.manual_seed(seed)
    net = build(Architecture.model_validate(SAM_ARCHITECTURE))
    scramble(net, seed, ("mask_tokens", "output_hypernetworks", "output_upscaling"), 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return path


def write_groundingdino_py(folder: Path, seed: int = 0) -> Path:
    """``config.py``, ``model.pth`` and the text encoder's folder ``bert``.

    The package builds no smaller image backbone than Swin-T and no other width than 256; the
    weights are kept in half precision to write less.
    """
    from s2v.datapipe.backends.groundingdino_py import build, read_config

    text = write_tokenizer(folder / "bert")
    (text / "config.json").write_text(json.dumps({"model_type": "bert", **BERT}))
    changed = {
        "enc_layers": 1,
        "dec_layers": 2,
        "num_queries": 12,
        "dim_feedforward": 64,
    }
    published = read_config("swint_ogc")
    lines = [f"{key} = {value!r}" for key, value in {**published, **changed}.items()]
    config = folder / "config.py"
    config.write_text("\n".join(lines) + "\n")
    torch.manual_seed(seed)
    net = build(read_config(str(config)), text)
    scramble(net, seed, ("bbox_embed", "enc_output", "feat_map"), 1.0)
    halves = {name: tensor.half() for name, tensor in net.state_dict().items()}
    torch.save({"model": halves}, folder / "model.pth")
    return folder


def scramble(net: torch.nn.Module, seed: int, names: tuple[str, ...], spread: float) -> None:
    """Random weights where initialisation leaves zeros, so that answers differ at all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(net.named_parameters()):
            if any(part in name for part in names) and weight.dim() > 1:
                scale = spread / weight.shape[-1] ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
