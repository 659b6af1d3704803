"""The tensors in a file of torch or safetensors, and those of a detector among them. Nothing is executed.

Trainings save a state dict alone, or under "model", "state_dict", "net", "ema.module" ..., and wrappers of a module put
their own name before those of its tensors. Both become one prefix of dotted names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from boxwright.units import shown
from boxwright.untrusted import UntrustedError, limited
from boxwright.zoo.foreign import ForeignError

if TYPE_CHECKING:
    from boxwright.zoo.foreign import State

_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that torch.compile and others insert before the names of a module's tensors."""

_AVERAGED = re.compile(r"ema|aver|avg|swa|teacher")
_DEPTH = 8  # of dicts in dicts; a training has three


class Weights(NamedTuple):
    """The tensors of a detector in a file.

    state   its state dict, without the prefix
    prefix  what the file has before the names, such as "model." or "state_dict.model."; "" if nothing
    others  the prefixes of other weights of the same detector in the file
    """

    state: State
    prefix: str
    others: tuple[str, ...]


def read(path: str | Path) -> State:
    """All tensors in a .pth or .safetensors file, by name; those in a dict under "model" are named "model." and so on.

    Executes nothing. Raises ForeignError if the file is damaged, has no tensors, or refers to more than tensors, plain
    containers and settings; the message says to what.
    """
    from boxwright.untrusted.torch_files import NUMBERS, read_safetensors, read_torch

    path = Path(path)
    if not path.is_file():
        raise ForeignError(f"{path}: there is no such file")
    try:
        content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
        tensors = limited(_tensors(content, "", set(), _DEPTH), path)
    except UntrustedError as error:
        raise ForeignError(str(error)) from error
    if not tensors:
        raise ForeignError(
            f"{path} has no state dict: expected names to tensors, alone or in a dict under a name such as 'model', "
            f"got {_contents(content)}"
        )
    for name, value in tensors.items():
        if value.dtype not in NUMBERS:
            raise ForeignError(
                f"{path}: {shown(name)} is of {value.dtype}, expected {NUMBERS[0]} or another plain number"
            )
    return {_WRAPPERS.sub("", name): value for name, value in tensors.items()}


def find(tensors: State, key: str, prefix: str | None = None) -> Weights:
    """The weights of a detector among the tensors of a file, which are found by the name of one of them, `key`.

    prefix  of the weights to take; where a file has several and none is given, the first that are not an average

    Where there is no such tensor, all are returned: the check of names explains what they are. Raises ForeignError if
    there is none with the given prefix.
    """
    prefixes = [name.removesuffix(key) for name in tensors if name == key or name.endswith(f".{key}")]
    if prefix is not None:
        prefix = f"{prefix.rstrip('.')}." if prefix else ""
        if prefix not in prefixes:
            known = ", ".join(f"'{found}'" for found in prefixes) or "none"
            raise ForeignError(f"there are no weights with the prefix '{prefix}'; prefixes of {key}: {known}")
    elif prefixes:
        prefix = min(prefixes, key=lambda found: bool(_AVERAGED.search(found)))
    else:
        return Weights(tensors, "", ())
    others = tuple(found for found in prefixes if found != prefix)
    longer = tuple(found for found in others if found.startswith(prefix))
    state = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and not (longer and name.startswith(longer))
    }
    return Weights(state, prefix, others)


def _tensors(content: Any, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """The tensors in a dict of dicts by dotted name. A dict that is there several times counts once."""
    import torch

    if not isinstance(content, dict) or id(content) in seen or depth == 0:
        return
    seen.add(id(content))
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{key}.", seen, depth - 1)


def _contents(content: Any) -> str:
    keys = ", ".join(map(shown, list(content)[:5])) if isinstance(content, dict) else ""
    return f"a dict of {keys}" if keys else f"a {type(content).__name__}"
