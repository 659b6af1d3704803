"""The command itself: help, exit statuses, errors in one line, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

import boxwright
from boxwright import cli

HEAVY = ("torch", "numpy", "PIL", "timm", "torchvision", "matplotlib", "hotcoco", "rich")


def imported(code: str) -> set[str]:
    """What a fresh interpreter has imported of HEAVY after running this."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('got', *({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(f"{HEAVY!r} &", f"set({HEAVY!r}) &")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in shown and command.help in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert exit.value.code == 0
    assert f"boxwright {name}" in shown
    assert "--" in shown


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"boxwright {boxwright.__version__}\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "usage: boxwright COMMAND"),
        (["detekt"], 2, "did you mean detect?"),
        (
            ["xyz"],
            2,
            "there are detect, train, evaluate, data check, data show, propose, bench, lineage, import, verify",
        ),
        (["data"], 2, "data check"),
        (["data", "--help"], 0, "data show"),
        (["help", "data"], 0, "data show"),
        (["help"], 0, "usage: boxwright COMMAND"),
        (["data", "clean"], 2, "there is no command 'data clean'; did you mean data check or data show?"),
    ],
)
def test_what_is_not_a_command(words: Sequence[str], status: int, said: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == status
    assert said in "".join(capsys.readouterr())


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.main(["models", "--colour", "red"])
    assert exit.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_unless_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["detect", __file__, "--model", "nothing"]
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("boxwright detect: there is no model 'nothing': expected ")
    assert shown.err.count("\n") == 1
    with pytest.raises(ValueError, match="no model 'nothing'"):
        cli.main([*words, "--debug"])
    monkeypatch.setenv("BOXWRIGHT_DEBUG", "1")
    with pytest.raises(ValueError, match="no model 'nothing'"):
        cli.main(words)


def test_our_own_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> int:
        raise AssertionError("a bug")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["models"])


def test_an_error_of_the_system_is_said_without_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "runs/log.jsonl")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["models"]) == 1
    assert capsys.readouterr().err == "boxwright models: runs/log.jsonl: Permission denied\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main(["models"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_help_and_the_list_of_models_import_no_torch():
    assert imported("from boxwright import cli; cli.main(['--help'])") == set()
    for command in ("detect", "evaluate", "data check", "models"):
        words = [*command.split(), "--help"]
        assert "torch" not in imported(f"from boxwright import cli; cli.main({words})"), command
    for words in (["models"], ["detect"], ["evaluate"]):  # the last two say what is missing
        assert "torch" not in imported(f"from boxwright import cli; cli.main({words})"), words


def test_the_way_from_a_file_to_boxes_imports_what_it_needs_and_no_more():
    modules = "boxwright.cli.detecting, boxwright.checkpoint, boxwright.predict.predictor, boxwright.draw.boxes"
    assert imported(f"import {modules}") == {"torch", "numpy", "PIL"}
