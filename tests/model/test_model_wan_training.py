"""The Wan network in the product's training loop, on real shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import train
from s2v.model.wan import WanModel

WAN = (
    "network.kind=wan",
    "wan.width=48",
    "wan.heads=2",
    "wan.ffn=96",
    "wan.layers=2",
    "wan.text_width=64",
    "wan.text_tokens=48",
)


@pytest.mark.parametrize("image", [(), ("wan.image_width=12",)], ids=["t2v", "image tokens"])
def test_a_small_wan_trains_on_shards_and_is_found_again(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path, image: tuple[str, ...]
) -> None:
    config = tiny(*WAN, *image, "train.steps=6", "optim.lr=5e-3", "optim.warmup=0")
    result = train(config, drawn_shards, tmp_path / "run", quiet)
    assert result.steps == 6
    assert result.last_loss < result.first_loss
    model, facts = Run(tmp_path / "run").network("model", torch.device("cpu"))
    assert isinstance(model, WanModel)
    assert facts["step"] == 6
    assert model.config == config.wan
    # The same command goes on, and refuses another network.
    again = train(tiny(*WAN, *image, "train.steps=8", "optim.lr=5e-3", "optim.warmup=0"),
                  drawn_shards, tmp_path / "run", quiet)  # fmt: skip
    assert again.steps == 8
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, 9))
    with pytest.raises(ModelError, match=r"wan\.width"):
        train(
            tiny(*WAN, *image, "wan.width=24", "train.steps=8"), drawn_shards, tmp_path / "run",
            quiet,
        )  # fmt: skip


def test_a_run_starts_from_a_released_checkpoint(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Here one of the same layout and small: the first loss is that of its weights."""
    path = tmp_path / "Phantom-Wan-tiny.pth"
    config = tiny(*WAN, "train.steps=1", "dropout.vae=0.0")
    torch.manual_seed(11)
    model = WanModel(config.wan)
    torch.nn.init.normal_(model.head.head.weight, std=0.05)
    torch.save(model.state_dict(), path)
    started = config.model_copy(
        update={"train": config.train.model_copy(update={"start_from": str(path)})}
    )
    fresh = train(config, drawn_shards, tmp_path / "fresh", quiet)
    tuned = train(started, drawn_shards, tmp_path / "tuned", quiet)
    assert fresh.first_loss != tuned.first_loss
    weights = torch.load(path, weights_only=True)
    after, _ = Run(tmp_path / "tuned").network("model", torch.device("cpu"))
    gaps = [float((after.state_dict()[k] - v).abs().max()) for k, v in weights.items()]
    assert 0 < max(gaps) < 0.01  # one step away

    # What an adapter left in the file is named, and passed over where that is asked for.
    torch.save(weights | {"adapter.w": torch.ones(3)}, path)
    with pytest.raises(ModelError, match=r"adapter\.w"):
        train(started, drawn_shards, tmp_path / "more", quiet)
    over = started.train.model_copy(update={"start_pass_over": ("adapter.*",)})
    passed = train(
        started.model_copy(update={"train": over}), drawn_shards, tmp_path / "over", quiet
    )
    assert passed.first_loss == tuned.first_loss
    torch.save(weights, path)

    wide = config.wan.model_copy(update={"layers": 3})
    with pytest.raises(ModelError, match=r"set wan\.layers = 2"):
        train(started.model_copy(update={"wan": wide}), drawn_shards, tmp_path / "other", quiet)
    paper = tiny(f"train.start_from={path}")
    with pytest.raises(ModelError, match=r"network\.kind = 'wan'"):
        train(paper, drawn_shards, tmp_path / "paper", quiet)


def test_widths_that_are_not_the_encoders_are_named(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("network.kind=wan", "wan.width=48", "wan.heads=2", "wan.image_width=1280")
    with pytest.raises(ModelError, match=r"wan\.text_width = 64, wan\.image_width = 12"):
        train(config, drawn_shards, tmp_path / "run", quiet)
