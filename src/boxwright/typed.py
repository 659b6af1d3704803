"""Values against their declared types and limits, such as those that a file gave, before anything is made of them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

_MOST_ENTRIES = 256
"""Of the numbers that one option takes."""


def check(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError with the name unless the value is of the type, and all that it contains.

    hint  bool, int (of 64 bits), float (also an int), str, None, a Literal, list, tuple (also a list), dict, a
          TypedDict (further keys are allowed), a dataclass or NamedTuple (for a dict of its fields and no others), or
          several of these with |. Any other hint is met by every value
    """
    if wrong := _mismatch(name, value, hint):
        raise ValueError(wrong)


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError where one of the values is not of the type of this class's field of that name."""
    hints = _hints(kind)
    for name in values.keys() & hints.keys():
        check(name, values[name], hints[name])


def within(low: float, high: float, **values: Any) -> None:
    """Raises ValueError with the name of the first value that is below `low` or above `high`, or has an entry that is.

    None is within all limits. At most `_MOST_ENTRIES` entries are.
    """
    for name, value in values.items():
        for count, number in enumerate(_numbers(value), 1):
            if not low <= number:
                raise ValueError(f"{name} is {low} or more, got {reprlib.repr(value)}")
            if not number <= high:
                raise ValueError(f"{name} is at most {high}, got {reprlib.repr(value)}")
            if count > _MOST_ENTRIES:
                raise ValueError(f"{name} takes at most {_MOST_ENTRIES} numbers, got {len(value)}")


def either(values: Iterable[Any]) -> str:
    """ "a, b or c"."""
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (tuple, list)):
        for entry in value:
            yield from _numbers(entry)
    elif value is not None:
        yield value


_hints = cache(get_type_hints)

_PLAIN: dict[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"), int: (Integral, "a whole number"), float: (Real, "a number"), str: (str, "text"),
    list: (list, "a list"), tuple: ((tuple, list), "a list"), dict: (dict, "an object"),
    NoneType: (NoneType, "nothing"),
}  # fmt: skip


def _mismatch(name: str, value: Any, hint: Any) -> str | None:
    """What is wrong, if anything is."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        wrong = [_mismatch(name, value, choice) for choice in inner if choice is not NoneType]
        return None if None in wrong or (value is None and NoneType in inner) else wrong[0]
    if origin is Literal:
        return None if value in inner else f"{name} is {either(inner)}, got {reprlib.repr(value)}"
    if is_typeddict(hint):
        return _mismatch(name, value, dict) or next(_wrong_keys(name, value, hint), None)
    if is_dataclass(hint) or hasattr(hint, "_field_defaults"):
        return _mismatch(name, value, dict) or next(_wrong_fields(name, value, hint), None)
    if origin not in _PLAIN:
        return None
    kind, expected = _PLAIN[origin]
    if not isinstance(value, kind) or (origin is not bool and isinstance(value, bool)) or _is_huge(value):
        return f"{name} is {expected}, got {reprlib.repr(value)}"
    if origin in (list, tuple) and inner:
        fixed = origin is tuple and inner[1:] != (...,)
        if fixed and len(inner) != len(value):
            return f"{name} takes {len(inner)} values, got {reprlib.repr(value)}"
        hints = inner if fixed else inner[:1] * len(value)
        entries = (_mismatch(f"{name}[{at}]", *entry) for at, entry in enumerate(zip(value, hints, strict=True)))
        return next(filter(None, entries), None)
    if origin is dict and inner:
        parts = ((f"{name}[{key!r:.40}]", part) for key, part in value.items())
        return next(filter(None, (_mismatch(part_name, part, inner[1]) for part_name, part in parts)), None)
    return None


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _wrong_keys(name: str, value: dict[str, Any], kind: Any) -> Iterator[str]:
    for key, hint in _hints(kind).items():
        if key in value:
            if wrong := _mismatch(f"{name}.{key}", value[key], hint):
                yield wrong
        elif key in kind.__required_keys__:
            yield f"{name} has no {key}"


def _wrong_fields(name: str, value: dict[str, Any], kind: Any) -> Iterator[str]:
    hints = _hints(kind)
    if is_dataclass(kind):
        required = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    else:
        required = hints.keys() - kind._field_defaults.keys()
    if lacking := sorted(required - value.keys()):
        yield f"{name} has no {lacking[0]}"
    if unknown := sorted(value.keys() - hints.keys()):
        yield f"{name} has {unknown[0]:.80}, which is not known here"
    yield from filter(None, (_mismatch(f"{name}.{key}", value[key], hints[key]) for key in hints if key in value))
