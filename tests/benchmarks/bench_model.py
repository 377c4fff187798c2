"""One training step of our networks beside diffusers' of equal size, by turns in one process.

    python tests/benchmarks/bench_model.py [--rounds 15] [--write] [--json FILE]

Forward, squared error, backward and AdamW on 320 video tokens and 64 of text, six layers of 384,
float32, one thread. Each round runs every network once in drawn order and gives one ratio per
pair of process times; what the machine does meanwhile falls on both. The interval is a bootstrap
over rounds. ``--write`` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import HunyuanVideoTransformer3DModel, WanTransformer3DModel
from generated import machine, replace_generated
from torch import Tensor, nn

from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.flops import Sizes, wan_flops
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
WIDTH, HEADS, LAYERS, TEXT, TEXT_WIDTH = 384, 6, 6, 64, 128
SHAPE = (1, 16, 5, 16, 16)  # 5 latent frames of 8 x 8 tokens
WARM_UP = 2
PAIRS = (("wan", "diffusers Wan"), ("mmdit", "diffusers HunyuanVideo"))


@dataclass(frozen=True)
class Ratio:
    """Ours by theirs.

    Attributes:
        ours: name.
        peer: name.
        ours_parameters: of our network.
        peer_parameters: of the peer.
        ours_s: median process time of a step.
        peer_s: the peer's.
        ratio: median over rounds.
        low: 2.5 % of the bootstrap of that median.
        high: 97.5 %.
    """

    ours: str
    peer: str
    ours_parameters: int
    peer_parameters: int
    ours_s: float
    peer_s: float
    ratio: float
    low: float
    high: float


class Contender:
    """One network with its optimiser and inputs."""

    def __init__(self, net: nn.Module, run: Callable[[nn.Module], Tensor]) -> None:
        self.net, self.run = net, run
        self.parameters = sum(p.numel() for p in net.parameters())
        self.optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
        self.target = torch.randn(SHAPE)

    def step(self) -> float:
        """Process time of one step."""
        began = time.process_time()
        self.optimiser.zero_grad(set_to_none=True)
        (self.run(self.net) - self.target).square().mean().backward()
        self.optimiser.step()
        return time.process_time() - began


def contenders() -> dict[str, Contender]:
    """Four networks of two kinds on the same inputs."""
    torch.manual_seed(0)
    latents, text = torch.randn(SHAPE), torch.randn(1, TEXT, TEXT_WIDTH)
    words = torch.ones(1, TEXT, dtype=torch.bool)
    none = torch.zeros(1, 0, dtype=torch.bool)
    told = Condition(
        text, words, torch.zeros(1, 16, 0, 16, 16), none, torch.zeros(1, 0, 1, 8), none
    )
    t = torch.tensor([0.7])
    wan = WanConfig(
        width=WIDTH, ffn=4 * WIDTH, heads=HEADS, layers=LAYERS, text_width=TEXT_WIDTH,
        text_tokens=TEXT,
    )  # fmt: skip
    mmdit = NetworkConfig(
        width=WIDTH, heads=HEADS, double_layers=2, single_layers=4, attention="full",
        reference_embedding=False,
    )  # fmt: skip
    return {
        "wan": Contender(WanModel(wan), lambda net: net(latents, t, told)),
        "diffusers Wan": Contender(
            WanTransformer3DModel(
                num_attention_heads=HEADS,
                attention_head_dim=WIDTH // HEADS,
                text_dim=TEXT_WIDTH,
                ffn_dim=4 * WIDTH,
                num_layers=LAYERS,
            ),
            lambda net: net(latents, 1000 * t, text, return_dict=False)[0],
        ),
        "mmdit": Contender(
            MMDiT(mmdit, Widths(16, TEXT_WIDTH, 8)), lambda net: net(latents, t, told)
        ),
        "diffusers HunyuanVideo": Contender(
            HunyuanVideoTransformer3DModel(
                num_attention_heads=HEADS,
                attention_head_dim=WIDTH // HEADS,
                num_layers=2,
                num_single_layers=4,
                num_refiner_layers=0,
                guidance_embeds=False,
                text_embed_dim=TEXT_WIDTH,
                pooled_projection_dim=8,
                rope_axes_dim=(16, 24, 24),
            ),
            lambda net: net(
                latents, 1000 * t, text, words, torch.zeros(1, 8), return_dict=False
            )[0],
        ),
    }  # fmt: skip


def measure(rounds: int) -> list[Ratio]:
    """Warm up, then run all in drawn order, round by round."""
    made = contenders()
    order = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(WARM_UP + rounds):
        for name in order.permutation(list(made)):
            spent = made[name].step()
            if number >= WARM_UP:
                times[name].append(spent)
    return [_ratio(a, b, made, times) for a, b in PAIRS]


def _ratio(
    ours: str, peer: str, made: dict[str, Contender], times: dict[str, list[float]]
) -> Ratio:
    ratios = np.array(times[ours]) / np.array(times[peer])
    draws = np.random.default_rng(1).integers(len(ratios), size=(10_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Ratio(
        ours, peer, made[ours].parameters, made[peer].parameters,
        float(np.median(times[ours])), float(np.median(times[peer])),
        float(np.median(ratios)), float(low), float(high),
    )  # fmt: skip


def table(results: list[Ratio], rounds: int) -> str:
    """Conditions and the table."""
    wan = WanConfig(
        width=WIDTH, ffn=4 * WIDTH, heads=HEADS, layers=LAYERS, text_width=TEXT_WIDTH,
        text_tokens=TEXT,
    )  # fmt: skip
    flops = wan_flops(wan, Sizes(SHAPE[2], SHAPE[3], SHAPE[4])).train
    lines = [
        f"Measured on {machine()}, one thread, float32, {rounds} rounds; torch "
        f"{torch.__version__}, diffusers {diffusers.__version__}. A step of `wan` is "
        f"{flops / 1e9:.1f} GFLOP.",
        "",
        "| network | parameters | CPU-s per step | peer | parameters | CPU-s per step | ratio "
        "| 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r.ours}` | {r.ours_parameters:,} | {r.ours_s:.3f} | {r.peer} | "
        f"{r.peer_parameters:,} | {r.peer_s:.3f} | **{r.ratio:.3f}** | "
        f"{r.low:.3f} to {r.high:.3f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(arguments.rounds)
    text = table(results, arguments.rounds)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=2))
    if arguments.write:
        replace_generated(PAGE, "model", text)


if __name__ == "__main__":
    main()
