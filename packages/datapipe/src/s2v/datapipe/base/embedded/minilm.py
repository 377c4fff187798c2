"""all-MiniLM-L6-v2: 384-d sentence vectors (Reimers and Gurevych 2019; Wang et al. 2020).

A BERT of six layers, written out here so that loading it needs neither transformers nor pickle.
Texts are cut at 128 word pieces, as the authors trained it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  the field's name for it

from s2v.datapipe.base.embedded.net import Net, Vectors, one_torch_thread, require, unit

if TYPE_CHECKING:
    from torch import Tensor

DIM = 384
_MAX_TOKENS = 128
_BATCH = 32


class MiniLM(Net):
    """Sentence embedder."""

    name = "minilm-l6-v2"
    asset_name = "minilm"

    _net: _Bert
    _tokenizer: Any

    def _load(self) -> None:
        tokenizers, safetensors = require("tokenizers"), require("safetensors.torch")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self.path / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.no_padding()
        config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        state = safetensors.load_file(self.path / "model.safetensors")
        # A buffer that counts 0..511 and a head that sentence vectors do not use.
        unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
        self._net = _Bert(config)
        self._net.load_state_dict({k: v for k, v in state.items() if k not in unused}, strict=True)
        self._net.eval().requires_grad_(False)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds sentences; a vector does not depend on the others in the call.

        Args:
            texts: Any strings; an empty one has a vector too.

        Returns:
            float32 [n, 384], rows of length one.
        """
        encoded = [self.token_ids(text) for text in texts]
        vectors = np.zeros((len(texts), DIM), np.float32)
        # Batches of one length need no padding: faster, and no vector depends on its company.
        by_length: dict[int, list[int]] = {}
        for index, ids in enumerate(encoded):
            by_length.setdefault(len(ids), []).append(index)
        for _, indices in sorted(by_length.items()):
            for start in range(0, len(indices), _BATCH):
                chunk = indices[start : start + _BATCH]
                with one_torch_thread():
                    hidden = self.states([encoded[index] for index in chunk])
                    vectors[chunk] = hidden.mean(1).numpy()
        return unit(vectors)

    def token_ids(self, text: str) -> list[int]:
        """Word-piece ids of a text, [CLS] first and [SEP] last, at most 128."""
        self.load()
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def states(self, ids: list[list[int]]) -> Tensor:
        """Last-layer states, [B, T, 384], of texts that have the same number of tokens."""
        self.load()
        out: Tensor = self._net(torch.tensor(ids))
        return out


class _Bert(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        layers = (_Layer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, 384]."""
        x: Tensor = self.embeddings(ids)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x)
        return x


class _Embeddings(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        x = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(x)
        return normed


class _Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        attend = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        output = {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=eps)}
        self.attention = nn.ModuleDict(
            {"self": nn.ModuleDict(attend), "output": nn.ModuleDict(output)}
        )
        inner = config["intermediate_size"]
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=eps)}
        )

    def forward(self, x: Tensor) -> Tensor:
        attend: Any = self.attention["self"]
        output: Any = self.attention["output"]
        q, k, v = (
            attend[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = output["LayerNorm"](x + output["dense"](mixed))
        inner = F.gelu(self.intermediate["dense"](x))
        normed: Tensor = self.output["LayerNorm"](x + self.output["dense"](inner))
        return normed
