"""The command that installs an optional dependency; imports nothing of torch, so that every file may ask for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def install(extra: str) -> str:
    """The command that adds an extra of pyproject.toml: `pip install -e "/home/me/boxwright[plots]"`.

    It names the checkout that this file is imported from, so that it works in any folder; "." stands for the checkout
    where boxwright was copied into the environment. uv stands for pip in an environment without pip, as uv makes them.
    """
    checkout = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else "."
    return f'{"pip" if find_spec("pip") else "uv pip"} install -e "{checkout}[{extra}]"'
