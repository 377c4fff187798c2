"""Recipes: each says what it is for, builds, fits its hardware, and a slip in one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2v.datapipe.base.settings import SettingsError
from s2v.model import config as configuration
from s2v.model import networks
from s2v.model.cli import main
from s2v.model.planner.hardware import hardware
from s2v.model.planner.plan import plan
from s2v.model.planner.shapes import widths_of

WANTED = {
    "ci_tiny", "demo", "demo_tiny", "phantom_mmdit_1b", "phantom_wan_1_3b_480p",
    "phantom_wan_1_3b_lora", "phantom_wan_14b_480p_8gpu", "no_clip", "no_vae", "in_only",
    "cross_only", "two_phase",
}  # fmt: skip


def test_the_recipes_that_the_docs_name_are_there() -> None:
    assert set(configuration.recipes()) >= WANTED


@pytest.mark.parametrize("name", configuration.recipes())
def test_a_recipe_fits_the_hardware_it_names(name: str) -> None:
    config = configuration.load(name)
    with torch.device("meta"):
        networks.build(config, widths_of(config))
    found = plan(config, hardware(config))
    assert found.batch >= config.train.batch
    assert all(row.most >= row.batch for row in found.buckets)


@pytest.mark.parametrize("name", configuration.recipes())
def test_what_a_recipe_resolves_to_is_itself_a_recipe(name: str, tmp_path: Path) -> None:
    config = configuration.load(name)
    path = tmp_path / "resolved.toml"
    path.write_text(config.to_toml())
    assert configuration.load(path) == config


def test_an_ablation_changes_its_subject_and_nothing_else() -> None:
    base = configuration.load("phantom_mmdit_1b")
    for name, changed in {
        "no_clip": {"image": 1.0, "vae": 0.0},
        "no_vae": {"image": 0.0, "vae": 1.0},
    }.items():
        dropout = base.dropout.model_copy(update=changed)
        assert configuration.load(name) == base.model_copy(update={"dropout": dropout})
    wan = configuration.load("phantom_wan_1_3b_480p")
    for name, mix in {"in_only": {"in": 1.0}, "cross_only": {"cross": 1.0}}.items():
        data = wan.data.model_copy(update={"mix": mix})
        assert configuration.load(name) == wan.model_copy(update={"data": data})


def test_an_ablation_can_be_laid_over_any_recipe() -> None:
    small = configuration.load("demo_tiny+no_clip+in_only", ["train.steps=7"])
    demo = configuration.load("demo_tiny")
    assert small.network == demo.network
    assert small.dropout.image == 1.0
    assert small.data.mix == {"in": 1.0}
    assert small.train.steps == 7


def test_a_mixture_is_replaced_and_a_section_is_laid_over(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('base = "demo_tiny"\n[data]\nmix = { cross = 1.0 }\n')
    (tmp_path / "two.toml").write_text('base = "one.toml"\n[data]\nfps = 4.0\n')
    config = configuration.load(tmp_path / "two.toml")
    assert config.data.mix == {"cross": 1.0}
    assert config.data.fps == 4.0
    assert config.data.frames == configuration.load("demo_tiny").data.frames


def test_several_bases_are_laid_over_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('base = ["demo_tiny", "b.toml"]\n')
    (tmp_path / "b.toml").write_text("[train]\nsteps = 3\n")
    config = configuration.load(tmp_path / "a.toml")
    assert config.train.steps == 3
    assert config.network == configuration.load("demo_tiny").network


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data]\nheigth = 3\n", r"b\.toml: unknown key 'data\.heigth'; did you mean 'height'"),
        ("[trian]\nsteps = 3\n", r"b\.toml: unknown key 'trian'; did you mean 'train'"),
        ('base = "a.toml"\n', r"base goes in a circle: a\.toml -> b\.toml -> a\.toml"),
        ('base = "demo_tinny"\n', r"demo_tinny: no such recipe or file; did you mean 'demo_tiny'"),
        ("base = 3\n", r"b\.toml: base: a name or a list of names"),
    ],
)
def test_a_slip_in_a_base_names_that_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('base = "b.toml"\n')
    (tmp_path / "b.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        configuration.load(tmp_path / "a.toml")


def test_the_plan_is_printed_and_a_refusal_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["plan", "--recipe", "phantom_wan_1_3b_480p", "--gpus", "8", "--memory", "80"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("1,418,996,800 parameters", "81x480x832+4", "encoders", "33%", "FSDP 8"):
        assert word in shown
    assert main([*arguments, "--memory", "24"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "What would fit" in said.err
    assert main(["plan", "--recipe", "ci_tiny", "--gpus", "0"]) == 2
    assert "--gpus 0" in capsys.readouterr().err


def test_the_losses_of_a_run_can_be_drawn(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    rows = [
        f'{{"step": {n}, "loss": {1 / n}, "loss_by_level": {{"0.00-0.25": {2 / n}}}}}'
        for n in range(1, 40)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert main(["chart", "--run", str(tmp_path)]) == 0
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()  # noqa: S314 - we wrote it
    words = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "noise 0.00-0.25" in words
    assert len([e for e in root.iter() if e.tag.endswith("path")]) == 2
    assert main(["chart", "--run", str(tmp_path / "none")]) == 2
