"""The options of a command as a list, and the short help that shows the most important ones. No torch is imported."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import tyro

from boxwright.detectors.config import DETECTORS, DetectorConfig, kind_of

_WIDTH = 100  # columns, at most
_COLUMN = 26  # of the options; the meaning of a longer one begins in the next line


def without_detector(kind: type) -> type:
    """The options of training that do not depend on the detector, which is a subcommand."""
    if "detector" not in (field.name for field in dataclasses.fields(kind)):
        return kind
    fixed = tyro.conf.Suppress[tyro.conf.Fixed[None]]
    return dataclasses.make_dataclass(kind.__name__, [("detector", fixed, None)], bases=(kind,), frozen=True)


def options_of(kind: type) -> list[argparse.Action]:
    """The options and positional arguments of a dataclass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro's only public way to the options
        parser = tyro.extras.get_parser(kind, config=(tyro.conf.FlagCreatePairsOff,))
    actions = {id(action): action for group in parser._action_groups for action in group._group_actions}
    return [action for action in actions.values() if "--help" not in action.option_strings]


def spelled(action: argparse.Action) -> str:
    """ "--size INT INT" """
    metavar = action.metavar or ""
    words = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    return " ".join(filter(None, [", ".join(action.option_strings), words]))


def meaning(action: argparse.Action) -> str:
    """The help without the escapes of a terminal and of argparse, and without a default that says nothing."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", (action.help or "").replace("%%", "%"))
    return re.sub(r" *\(default: (True|False)?\)$" if action.nargs == 0 else r" *\(default: \)$", "", text)


def detector_of(kind: Any, words: Sequence[str]) -> type[DetectorConfig] | None:
    """The config that `boxwright train` takes with these words: that of the detector they name, or of --from MODEL."""
    if not hasattr(kind, "defaults"):
        return None  # no command but `train` has a detector as subcommand
    named = next((DETECTORS[word] for word in words if word in DETECTORS), None)
    if named is not None:
        return named
    config = kind.defaults([*words, "--help"]).detector
    return None if config is None else type(config)


def names_of(kind: type, words: Sequence[str]) -> list[str]:
    """The options that a command takes with these words, without their dashes."""
    detector = detector_of(kind, words)
    actions = [*options_of(without_detector(kind)), *(options_of(detector) if detector else ())]
    return [option.removeprefix("--") for action in actions for option in action.option_strings]


def short_help(name: str, kind: type, first: Sequence[str], words: Sequence[str]) -> str:
    """What `boxwright NAME --help` prints: usage, what the command does, and its most important options.

    first  names of these options, in order; () shows all
    words  of the command line, which may name a detector
    """
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    detector, actions = detector_of(kind, words), options_of(without_detector(kind))
    positional = [action for action in actions if not action.option_strings]
    options = {action.option_strings[0].removeprefix("--"): action for action in actions if action.option_strings}
    shown = [*positional, *(options[option] for option in first or options)]
    command = f"boxwright {name}"
    usage = [f"usage: {command}", *(spelled(action) for action in positional)]
    if detector is not None:
        command = f"{command} {kind_of(detector)}"
        usage = [f"usage: {command}"]
    elif hasattr(kind, "defaults"):
        usage += ["DETECTOR"]
    lines = [" ".join([*usage, *(["[options]"] if options else [])]), ""]
    about = (inspect.getdoc(detector or kind) or "").split("\n\n")[0]
    lines += [*textwrap.wrap(" ".join(about.split()), width), ""]
    for action in shown:
        lines += _described(action, width)
    if detector is not None:
        names = ", ".join(action.option_strings[0] for action in options_of(detector))
        lines += ["", *textwrap.wrap(f"Options of {kind_of(detector)}: {names}.", width, break_on_hyphens=False)]
    elif hasattr(kind, "defaults"):
        text = f"A DETECTOR is {', '.join(DETECTORS)}. `{command} DETECTOR --help` names its options."
        lines += ["", *textwrap.wrap(text, width, break_on_hyphens=False)]
    if detector is not None or len(shown) < len(actions):
        lines += ["", f"`{command} --help-all` explains all options."]
    return "\n".join(lines)


def _described(action: argparse.Action, width: int) -> list[str]:
    left = f"  {spelled(action)}"
    text = textwrap.wrap(_in_short(meaning(action)), width - _COLUMN, break_on_hyphens=False)
    rows = [" " * _COLUMN + line for line in text]
    return [f"{left:<{_COLUMN}}{text[0]}", *rows[1:]] if len(left) <= _COLUMN - 2 and text else [left, *rows]


def _in_short(text: str) -> str:
    """The first sentence, what holds where the option is not given, and (required)."""
    first, *others = re.split(r"(?<=\.)\s+", text)
    return " ".join([first, *(other for other in others if "if not given" in other or other.startswith("("))])
