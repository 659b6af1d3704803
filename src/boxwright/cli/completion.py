"""`boxwright completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, Union

import tyro


@dataclass(frozen=True)
class Completion:
    """Print the script with which a shell completes commands, detectors and options.

    For bash: boxwright completion bash > ~/.local/share/bash-completion/completions/boxwright
    """

    shell: tyro.conf.Positional[Annotated[Literal["bash", "zsh", "fish"], tyro.conf.arg(help_behavior_hint="")]]
    """The shell."""

    def run(self) -> int:
        tyro.cli(_all_commands(), prog="boxwright", args=["--tyro-print-completion", self.shell],
                 config=(tyro.conf.FlagCreatePairsOff,))  # fmt: skip
        return 0


def _all_commands() -> Any:
    """A type whose subcommands are the commands; those of a group such as `data` are one level below."""
    from boxwright.cli import COMMANDS

    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        group, _, member = name.partition(" ")
        kind = getattr(import_module(command.module), command.name)
        kind = Annotated[kind, tyro.conf.subcommand(member or group, description=command.help, prefix_name=False)]
        groups.setdefault(group, []).append(kind)
    choices = [
        kinds[0] if len(kinds) == 1 else Annotated[
            make_dataclass(group, [("command", tyro.conf.OmitSubcommandPrefixes[Union[tuple(kinds)]])]),  # noqa: UP007
            tyro.conf.subcommand(group, prefix_name=False),
        ]
        for group, kinds in groups.items()
    ]  # fmt: skip
    return Union[tuple(choices)]  # noqa: UP007
