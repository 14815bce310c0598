"""The `mmbert` command: help texts, doctor, plan and user errors."""

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import mmbert_kernels
from mmbert import cli
from mmbert.cli.app import app
from mmbert.doctor import Finding, collect_findings, render, supported_versions
from mmbert.errors import UserError
from tests.support.environment import ROOT

RECIPES = ROOT / "src" / "mmbert" / "recipes"
COMMANDS = sorted(
    command.name or command.callback.__name__.rstrip("_")
    for command in app.registered_commands
    if command.callback is not None
)


def _output(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.output


def test_every_command_has_help_with_an_example() -> None:
    assert {"doctor", "plan", "inspect", "export", "import", "merge", "evaluate"} <= set(COMMANDS)
    for command in COMMANDS:
        text = _output(command, "--help")
        assert "Example" in text, command
        assert f"mmbert {command} " in text.replace("\n", " ") + " ", command


def test_no_help_text_loses_words_to_markup() -> None:
    """Rich's Markdown drops anything that looks like an HTML or markup tag."""
    for command in app.registered_commands:
        assert command.callback is not None
        hints = get_type_hints(command.callback, include_extras=True).values()
        options = [option for hint in hints for option in get_args(hint)[1:]]
        texts = [option.help or "" for option in options if hasattr(option, "help")]
        for text in [*texts, command.callback.__doc__ or "", command.epilog or ""]:
            assert not re.search(r"<\w+>|\[/?[a-z]+\]", text), text


def test_doctor_says_what_is_here_and_what_is_missing() -> None:
    printed = _output("doctor")
    for package in ("torch", "deepspeed", "transformers", "numpy"):
        assert version(package) in printed
    for operation, backend in mmbert_kernels.backends().items():
        assert operation in printed
        assert backend in printed
    devices = [finding for finding in collect_findings() if finding.section == "devices"]
    assert any(finding.name.startswith("GPU 0") for finding in devices) == torch.cuda.is_available()


def test_doctor_names_a_missing_package_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbert.doctor._version", lambda package: None)
    missing = {finding.name: finding for finding in collect_findings()}
    assert missing["torch"].value == "missing"
    assert missing["torch"].remedy
    assert "[gpu]" in missing["flash_attn"].remedy
    console = Console(width=200, record=True)
    render(list(missing.values()), console)
    assert "pip install -e '.[gpu]'" in console.export_text()


def test_doctor_minds_an_unsupported_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def torch_line() -> Finding:
        return next(finding for finding in collect_findings() if finding.name == "torch")

    assert not torch_line().remedy
    bounds = re.search(r'"torch(.+?)"', (ROOT / "setup.py").read_text())
    assert bounds is not None
    for number in ("2.9.1+cpu", "9.0.0"):
        monkeypatch.setattr(torch, "__version__", number)
        assert "supported: torch" in torch_line().remedy
        assert set(bounds[1].split(",")) <= set(re.split("[ ,]", torch_line().remedy))


def test_doctor_minds_every_bound_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example DeepSpeed, whose private API the engine uses."""
    monkeypatch.setattr("mmbert.doctor._version", lambda _: "0.0.1")
    lines = {
        finding.name: finding for finding in collect_findings() if finding.section == "versions"
    }
    assert lines["deepspeed"].remedy.startswith("supported: deepspeed ")
    assert lines["typer"].remedy.startswith("supported: typer ")


def test_without_the_tree_the_bounds_are_those_of_the_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent() -> None:
        raise UserError("no setup.py", remedy="none")

    monkeypatch.setattr("mmbert.doctor.required", absent)
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: ["numpy>=1", "torch<3,>=2.5", 'torch>=9; extra == "x"'],
    )
    assert str(supported_versions("torch")) == "<3,>=2.5"


def test_plan_prints_the_recipe_in_figures() -> None:
    printed = _output("plan", str(RECIPES / "mmbert-base.yaml"), "--gpus", "8", "--gpu", "h100")
    assert "307,786,240" in printed
    assert "500,150" in printed  # steps of the first phase
    overridden = _output("plan", str(RECIPES / "mmbert-base.yaml"), "phases.decay.tokens=50B")
    assert "50B" in overridden


@pytest.mark.parametrize("option", ["--mfu", "--utilisation"])
def test_plan_takes_the_mfu_under_its_former_name_too(option: str) -> None:
    recipe = str(RECIPES / "mmbert-base.yaml")
    assert "at 13% MFU" in _output("plan", recipe, option, "0.13")
    shown = _output("plan", "--help")
    assert "--mfu" in shown
    assert "--utilisation" not in shown


@pytest.mark.parametrize("option", ["--initialization", "--initialisation"])
def test_import_takes_the_initialization_under_its_former_name_too(
    option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = {}

    def import_model(*_: object, **options: object) -> None:
        taken.update(options)
        raise UserError("enough", remedy="")

    monkeypatch.setattr("mmbert.hub.importing.import_model.import_model", import_model)
    CliRunner().invoke(app, ["import", str(tmp_path), str(tmp_path / "out"), option, "mean"])
    assert taken["initialization"] == "mean"
    assert "--initialisation" not in _output("import", "--help")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "absent.yaml"], ["absent.yaml", "→"]),
        (["plan", str(RECIPES / "mmbert-base.yaml"), "--gpu", "gpu9000"], ["gpu9000", "h100"]),
        (["plan", str(RECIPES / "mmbert-base.yaml"), "batch.rows=7"], ["rows 7", "quantum 8"]),
        (["export", "nowhere", "out"], ["nowhere"]),
        (["evaluate", "nowhere"], ["--data"]),
        (["merge", "nowhere", "--method", "linear", "--output", "out"], ["→"]),
        (["merge", "one", "two", "--output", "out"], ["--method"]),
    ],
)
def test_mistakes_are_status_two(
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["mmbert", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    printed = capsys.readouterr().err
    for word in words:
        assert word in printed
