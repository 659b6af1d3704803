"""The command itself: help, exit statuses, errors in one line, and what is imported when."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import boxwright
from boxwright import cli, terminal
from boxwright.cli.helping import names_of
from boxwright.cli.synonyms import SYNONYMS
from boxwright.detectors.config import DETECTORS

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "hotcoco", "rich")
SLOW = {"torch", "torchvision", "timm", "matplotlib", "hotcoco", "rich"}
"""What an error imports nothing of; reading annotations takes numpy and PIL, a fifth of a second."""


def run(*words: str, folder: Path | None = None) -> tuple[int, str, set[str]]:
    """Exit status and output of a command in a fresh interpreter, and what of HEAVY it has imported."""
    code = f"""
import atexit, sys
atexit.register(lambda: print("imported", *sorted(set({HEAVY!r}) & sys.modules.keys())))
from boxwright import cli
sys.exit(cli.main({list(words)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    *shown, last = done.stdout.splitlines()
    return done.returncode, "\n".join([*shown, done.stderr]), set(last.split()[1:])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in shown and command.help in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]):
    """The most important ones in a screen of a terminal, then all."""
    assert cli.main([*name.split(), "--help"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= 24 and max(map(len, short.splitlines())) <= 80
    with pytest.raises(SystemExit) as exit:
        cli.main([*name.split(), "--help-all"])
    shown = capsys.readouterr().out
    assert exit.value.code == 0
    for text, options in ((short, cli.COMMANDS[name].first), (shown, cli.COMMANDS[name].first)):
        assert f"boxwright {name}" in text
        assert [option for option in options if f"--{option}" not in text] == []
    assert ("--help-all" in short) == bool(cli.COMMANDS[name].first)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train ssd --imgsz 640", "there is no option --imgsz; it is --size here, which `boxwright train --help-all`"),
        ("bench --imgsz 640", "it is --sizes here"),
        ("train --from voc9 --freeze 2", "it is --frozen-stages here"),
        ("train ssd --batch_size=4", "it is --batch here"),
        ("train ssd --name a", "it is --out here"),
        ("train ssd --weights a", "it is --from here"),
        ("detect a.jpg --weights a", "it is --model here"),
        ("detect a.jpg --conf 0.5", "it is --threshold here"),
        ("detect a.jpg --iou 0.5", "it is --nms here"),
        ("detect a.jpg --patience 5", "there is no option --patience; `boxwright detect --help-all` lists"),
        ("train faster-rcnn", "there is no detector 'faster-rcnn'; did you mean faster_rcnn?"),
        ("train FasterRCNN", "did you mean faster_rcnn?"),
        ("bench --data . --detectors R-FCN", "did you mean r_fcn?"),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(command: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(command.split()) in (1, 2)
    assert message in capsys.readouterr().err


def test_every_synonym_is_of_an_option():
    taken = {name: set(names_of(_kind(name), ["faster_rcnn"] if name == "train" else [])) for name in cli.COMMANDS}
    every = set().union(*taken.values())
    assert [word for word, ours in SYNONYMS.items() if not every & set(ours)] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str):
    status, script, imported = run("completion", shell)
    assert (status, imported & SLOW) == (0, set())
    assert [word for word in ("boxwright", "detect", "faster_rcnn", "--agnostic-nms") if word not in script] == []


def _kind(name: str) -> Any:
    return getattr(import_module(cli.COMMANDS[name].module), cli.COMMANDS[name].name)


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"boxwright {boxwright.__version__}\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "usage: boxwright COMMAND"),
        (["detekt"], 2, "did you mean detect?"),
        (
            ["xyz"],
            2,
            "there are detect, train, evaluate, data check, data show, data stats, data convert, data split, "
            "data merge, propose, bench, lineage, import, verify",
        ),
        (["data"], 2, "data check"),
        (["data", "--help"], 0, "data show"),
        (["help", "data"], 0, "data show"),
        (["help"], 0, "usage: boxwright COMMAND"),
        (["data", "clean"], 2, "there is no command 'data clean'; did you mean data check?"),
    ],
)
def test_what_is_not_a_command(words: Sequence[str], status: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == status
    assert message in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["models", "--colour", "red"],
            "there is no option --colour; `boxwright models --help-all` lists the opt",
        ),
        (["detect", "--bacth=3", "x.jpg"], "there is no option --bacth; did you mean --batch?\n"),
        (["evaluate", "--datas", "x"], "there is no option --datas; did you mean --data?\n"),
        (["models", "voc9"], "'voc9' is not understood; `boxwright models --help` explains"),
        (["train", "r_fcn", "--hidden", "9"], "hidden is not read by r_fcn; it is read by localizer, spp_net, fast_r"),
        (["train", "ssd", "--head-layers=7"], "--head-layers is not read by ssd; it is read by fast_rcnn (variant"),
    ],
)
def test_what_is_not_an_option_is_a_usage_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""


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


def test_an_error_of_the_system_is_printed_without_its_number(
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


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [("--help", ""), ("help data", "1"), ("models --help", "1"), ("models --json", ""), ("train --help-all", "1")],
)
def test_a_closed_pipe_is_no_error(words: str, unbuffered: str):
    """As in `boxwright --help | head -1`, where `head` may have ended before the output is written."""
    reader, writer = os.pipe()
    os.close(reader)
    code = f"import sys; from boxwright import cli; sys.exit(cli.main({words.split()!r}))"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As with `<&-` and `>&-` in a shell."""
    for words, status in ((["--help"], 0), (["train", "--help-all"], 0), (["train", "--epochs", "x"], 2)):
        monkeypatch.setattr("sys.stdout", None)
        try:
            assert cli.main(words) == status
        except SystemExit as end:  # of tyro, which prints this help and this error
            assert end.code == status
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    assert cli.main(["detect", "-"]) == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_without_a_character_gets_another(encoding: str):
    """The second name cannot be encoded in UTF-8 either: it is a byte of a file name in another encoding."""
    text = "\u0436 \udce9 \u2013 a"
    code = f"from boxwright import cli; cli.usage = lambda: {text!a}; cli.main(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stdout) == (0, "\u0436 ? \u2013 a\n" if encoding == "utf-8" else "? ? ? a\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["models"], 0, "voc9"),
        (["detect", "x.jpg", "--model", "torchvision:fcos_resnet50_fpn"], 1, "set BOXWRIGHT_CACHE to a folder"),
    ],
)
def test_without_a_home_folder(
    words: list[str], status: int, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """As in a container whose user has no entry in /etc/passwd."""
    for name in ("HOME", "USERPROFILE", "HOMEPATH", "BOXWRIGHT_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "FVCORE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").touch()
    assert cli.main(words) == status
    assert message in "".join(capsys.readouterr())


def test_help_of_all_commands_imports_nothing():
    assert run("--help")[2] == set()
    assert run("--version")[2] == set()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_each_command_imports_no_torch(name: str):
    status, shown, imported = run(*name.split(), "--help-all")
    assert (status, imported) == (0, set()), f"boxwright {name} --help-all imports {imported}"
    assert f"boxwright {name}" in shown


def test_short_help_of_all_commands_imports_no_torch():
    code = f"""
import sys
from boxwright import cli
for name in cli.COMMANDS:
    cli.main([*name.split(), "--help"])
print("imported", *sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported"


@pytest.mark.parametrize("name", [*DETECTORS, "--from voc9"])
def test_help_of_each_detector_imports_no_torch(name: str):
    """That of a model to start from has the model's options as defaults, from the header of its checkpoint."""
    status, shown, imported = run("train", *name.split(), "--help")
    assert (status, imported) == (0, set()), f"boxwright train {name} --help imports {imported}"
    assert "--backbone" in shown and "--epochs" in shown


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("train", 1, "name a detector and data: boxwright train localizer|"),
        ("train faster_rcn --data {folder}", 2, "there is no detector 'faster_rcn'; did you mean faster_rcnn?"),
        ("train faster_rcnn --data missing", 1, "at missing, which does not exist"),
        ("train faster_rcnn --data {folder} --lr fast", 2, "--lr"),
        ("train faster_rcnn --data {folder} --lr -1", 2, "lr is greater than 0"),
        ("train faster_rcnn --data {folder} --bacth 4", 2, "there is no option --bacth; did you mean --batch"),
        ("train faster_rcnn --data {folder} --variant c4 --head-layers 7", 2, "head_layers is not read by faster_rcnn"),
        ("train r_fcn --data {folder} --hidden 9", 2, "--hidden is not read by r_fcn; it is read by localizer,"),
        ("train ssd --data {folder} --propser 9", 2, "there is no option --propser; `boxwright train --help-all`"),
        ("train ssd --data {folder} --size 0 9", 1, "--size is 1 or more, got 0"),
        ("train --data {folder} --hidden 9", 2, "--hidden is an option of localizer,"),
        ("train --from voc9 --data {folder} --grids 9", 2, "--grids is not read by faster_rcnn; it is read by spp_net"),
        ("train --from nosuch --data {folder}", 1, "there is no model 'nosuch': expected voc9"),
        ("train --resume {folder}", 1, "is no folder of a run: it has no config.json"),
        ("bench", 1, "Name a dataset with --data"),
        ("bench --data missing", 1, "at missing, which does not exist"),
        ("bench --data {folder} --detectors ssdd", 1, "there is no detector 'ssdd'; did you mean ssd?"),
        ("bench --data {folder} --constraint fast", 1, "expected a constraint like"),
        ("bench --data {folder} --sizes 0", 1, "sizes are 32 or more, got 0"),
        ("bench --data {folder} --seeds 0", 2, "seeds is 1 or more, got 0"),
        ("bench --data {folder} --seeds 1000000000", 2, "seeds is at most 1000, got 1000000000"),
        ("bench --data {folder} --bugdet 3h", 2, "did you mean --budget"),
        ("lineage --data missing", 1, "at missing, which does not exist"),
        ("lineage --data {folder} --steps rcnn fasterrcnn", 1, "did you mean faster_rcnn?"),
        ("detect", 1, "no images. Name files"),
        ("detect missing.jpg", 1, "missing.jpg: there is no such file or folder"),
        ("detect {file} --model nosuch", 1, "there is no model 'nosuch': expected voc9"),
        ("detect {file} --threshold 50", 1, "--threshold is between 0 and 1, got 50"),
        ("detect {file} --threshold high", 2, "--threshold"),
        ("detect {file} --batch", 2, "--batch"),
        ("detect {file} --bacth 3", 2, "did you mean --batch?"),
        ("evaluate", 1, "Name a dataset with --data"),
        ("evaluate voc9 --data missing/", 1, "at missing, which does not exist"),
        ("evaluate voc9 --data {file}", 1, "expected a folder, a COCO .json, a YOLO .yaml or a .csv, got"),
        ("evaluate voc9 --data {folder}", 1, "is not a dataset in a supported layout"),
        ("evaluate --data {folder} --workers -1", 1, "--workers is 0 or more, got -1"),
        ("data check missing", 1, "missing, which does not exist"),
        ("data check /dev/null", 1, "at /dev/null, which is a pipe or a device"),
        ("data check", 2, "PATH"),
        ("data show missing", 1, "missing, which does not exist"),
        ("data show {folder} --augmented much", 2, "invalid choice 'much'"),
        ("propose", 1, "no images. Name a dataset"),
        ("propose missing.jpg", 1, "missing.jpg: there is no such file or folder"),
        ("propose {file} --count 0", 1, "--count is 1 or more, got 0"),
        ("import torchvision:fcos missing.pth", 1, "did you mean torchvision:fcos_resnet50_fpn"),
        ("import torchvision:fcos_resnet50_fpn missing.pth", 1, "missing.pth, which does not exist"),
        ("verify missing.safetensors", 1, "missing.safetensors, which does not exist"),
        ("verify", 2, "FILE"),
        ("models --colour", 2, "there is no option --colour"),
    ],
)
def test_errors_that_need_no_torch_import_none(command: str, status: int, message: str, tmp_path: Path):
    file = tmp_path / "file.jpg"
    file.touch()
    words = command.format(file=file, folder=tmp_path).split()
    code, shown, imported = run(*words, folder=tmp_path)
    assert code == status and message in " ".join(shown.split()), shown
    assert not imported & SLOW, f"boxwright {command} imports {imported & SLOW}"


def test_a_list_of_models_imports_no_torch():
    status, shown, imported = run("models")
    assert status == 0 and "voc9" in shown and imported <= {"rich"}


def test_the_way_from_a_file_to_boxes_imports_what_it_needs_and_no_more():
    code = (
        "import boxwright.cli.detecting, boxwright.checkpoint, boxwright.predict.predictor, boxwright.draw.boxes, sys"
    )
    code += f"; print(*set({HEAVY!r}) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"torch", "numpy", "PIL"}


def test_in_a_terminal_an_error_is_wrapped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    missing = "there_is_no_such_folder_of_a_dataset"
    monkeypatch.setattr(terminal, "terminal_width", lambda stream: 50)
    assert cli.main(["train", "ssd", "--data", missing]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 50 and lines[1].startswith("  ")
    assert missing in " ".join(lines)
