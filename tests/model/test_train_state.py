"""What a training remembers: taken up again, the next step is the one that would have come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2v.model import optim
from s2v.model.config import OptimConfig

CONFIG = OptimConfig(lr=0.1, betas=(0.9, 0.99), weight_decay=0.1, ema=0.99)
GOOD = torch.zeros(())


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def _learn(model: nn.Module, optimiser: torch.optim.AdamW, ema: optim.Ema, step: int) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    optimiser.zero_grad(set_to_none=True)
    model(x).square().sum().backward()  # type: ignore[no-untyped-call]
    optim.step(optimiser, CONFIG.lr, GOOD)
    ema.update(model.named_parameters(), step, GOOD)


def _all(model: nn.Module, optimiser: torch.optim.AdamW, ema: optim.Ema) -> dict[str, Tensor]:
    state = optim.state_tensors(model, optimiser)
    held = {**model.state_dict(), **state, **{f"ema.{n}": w for n, w in ema.weights.items()}}
    return {name: tensor.clone() for name, tensor in held.items()}


def test_moments_their_count_and_the_average_go_on_where_they_were() -> None:
    """Adam's first steps are larger: a count that began anew would jump at every restart."""
    model = _network()
    optimiser, ema = optim.adamw(model, CONFIG), optim.Ema(model.named_parameters(), CONFIG.ema)
    for step in range(3):
        _learn(model, optimiser, ema, step)
    saved = {n: t.clone() for n, t in optim.state_tensors(model, optimiser).items()}
    assert {name.rpartition("/")[2] for name in saved} == {"exp_avg", "exp_avg_sq", "step"}
    average = {n: w.clone() for n, w in ema.weights.items()}
    other = _network()
    other.load_state_dict(model.state_dict())
    optimiser2, ema2 = optim.adamw(other, CONFIG), optim.Ema(_network().named_parameters(), 0.99)
    optim.load_state_tensors(other, optimiser2, saved)
    ema2.load(average)
    for step in (3, 4):
        _learn(model, optimiser, ema, step)
        _learn(other, optimiser2, ema2, step)
    ours, theirs = _all(other, optimiser2, ema2), _all(model, optimiser, ema)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_young_average_is_not_the_first_weights() -> None:
    """The average of step n has a memory of about n steps, until it has that of its decay."""
    p = nn.Parameter(torch.zeros(1))
    ema = optim.Ema([("p", p)], 0.9999)
    with torch.no_grad():
        p.fill_(1.0)
    ema.update([("p", p)], 0)
    assert float(ema.weights["p"]) == torch.tensor(0.9).item()
    with torch.no_grad():
        p.fill_(0.0)
    ema.update([("p", p)], 10**6)
    assert float(ema.weights["p"]) > 0.899
