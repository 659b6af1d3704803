"""Read a pickle as data: numbers, text, plain containers and arrays.

A pickle is a program that may call anything it names. Here Python's `pickletools` decodes its instructions, and a
`Machine` carries out those that make data. A name that the program refers to becomes a `Name`, which is text, and a
table says which value a call of it stands for. Nothing that the program could call or alter is within its reach.

Instructions are counted, and so is what their calls copy: a program of a few bytes could otherwise repeat one text for
hours. Keys of a dict are text and numbers, whose hashes take no time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickletools import genops
from typing import IO, Any, NamedTuple

import numpy as np

from boxwright.units import shown
from boxwright.untrusted import UntrustedError, opened

_INSTRUCTIONS = 1_000_000
"""A checkpoint has about 30 for each tensor."""

_CALL = 10  # instructions that a name or a call counts as: it takes longer, and more memory, than a number
_COPIES = 4  # of the pickle, which it may make of its text and bytes
_SPARE = 1 << 20  # bytes


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle of arrays and plain containers, also of Python 2.

    Raises UntrustedError, with the name, if the file refers to anything else, and if it is damaged.
    """
    with opened(path, "pickle") as file:
        return Machine(file, file.size, CALLS, "numpy arrays, plain containers and settings").run()


class Name(NamedTuple):
    """A name that a pickle refers to."""

    full: str

    def __str__(self) -> str:
        return self.full


class Pending:
    """Stands for a value that a pickle creates empty and gives its state later."""

    __slots__ = ("fill", "value")

    def __init__(self, fill: Callable[[Any], Any]) -> None:
        self.fill = fill
        self.value: Any = None


class Machine:
    """Carries out one pickle.

    stream      read up to the end of the pickle
    size        of the whole stream in bytes
    calls       by full name: what a call of it gives, None for what is named but never called
    what        these names are, for the message about any other
    persistent  from the id of an external object to that object
    """

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        calls: Mapping[str, Callable[..., Any] | None],
        what: str,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stream, self._calls, self._what, self._persistent = stream, calls, what, persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._instructions = 0
        self._to_copy = _COPIES * size + _SPARE

    def run(self) -> Any:
        """The object that the pickle makes. What it creates and never fills stays `Pending`."""
        value: Any
        for opcode, value, _ in genops(self._stream):
            self._count(1)
            kind = opcode.name
            if kind in _PUSHED:
                self._stack.append(value)
            elif kind in ("BINPUT", "LONG_BINPUT", "PUT"):
                self._remember(value)
            elif kind in ("BINGET", "LONG_BINGET", "GET"):
                self._stack.append(_filled(self._memo[value]))
            elif kind == "MEMOIZE":
                self._remember(len(self._memo))
            elif kind == "STOP":
                return _filled(self._stack.pop())
            elif kind not in ("PROTO", "FRAME"):
                self._carry_out(kind, value)
        raise ValueError("it has no end")

    def _carry_out(self, kind: str, value: Any) -> None:
        match kind:
            case "MARK":
                self._marks.append(self._stack)
                self._stack = []
            case "NONE":
                self._stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self._stack.append(kind == "NEWTRUE")
            case "EMPTY_TUPLE":
                self._stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = tuple(self._pop() for _ in range(int(kind[-1])))
                self._stack.append(items[::-1])
            case "TUPLE" | "FROZENSET":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "EMPTY_LIST" | "EMPTY_SET":  # a set is read as a list
                self._stack.append([])
            case "LIST":
                items = self._since_mark()
                self._stack.append(items)
            case "APPEND":
                self._extend([self._pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._since_mark())
            case "EMPTY_DICT":
                self._stack.append({})
            case "DICT":
                items = self._since_mark()
                self._stack.append({})
                self._set(items)
            case "SETITEM":
                item = self._pop()
                self._set([self._pop(), item])
            case "SETITEMS":
                self._set(self._since_mark())
            case "GLOBAL":
                self._name(*value.split(" ", 1))
            case "STACK_GLOBAL":
                name = self._pop()
                self._name(self._pop(), name)
            case "REDUCE" | "NEWOBJ":
                arguments = self._pop()
                self._call(self._pop(), arguments)
            case "NEWOBJ_EX":
                if self._pop():
                    raise UntrustedError("it makes an object with named arguments, and only data is read")
                arguments = self._pop()
                self._call(self._pop(), arguments)
            case "BUILD":
                self._fill(self._pop())
            case "PERSID" | "BINPERSID":
                self._external(value if kind == "PERSID" else self._pop())
            case "POP":
                self._stack.pop() if self._stack else self._since_mark()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                self._stack.append(self._stack[-1])
            case "INST":
                raise self._refers_to(value.replace(" ", "."))
            case _:
                raise UntrustedError(f"it has the instruction {kind}, and only data is read")

    def _count(self, instructions: int) -> None:
        self._instructions += instructions
        if self._instructions > _INSTRUCTIONS:
            raise UntrustedError(f"it has more than {_INSTRUCTIONS} instructions; save the weights alone")

    def _charge(self, items: tuple[Any, ...]) -> None:
        """Count a call and what it may copy."""
        self._count(_CALL)
        for item in items:
            if isinstance(item, str | bytes | bytearray):
                self._to_copy -= len(item)
            elif isinstance(item, list | tuple | dict):
                self._count(len(item))
        if self._to_copy < 0:
            raise UntrustedError("it repeats the same bytes again and again")

    def _pop(self) -> Any:
        return _filled(self._stack.pop())

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return [_filled(item) for item in items]

    def _remember(self, index: Any) -> None:
        if not 0 <= index <= _INSTRUCTIONS:
            raise UntrustedError(f"it numbers an object {shown(index)}, expected at most {_INSTRUCTIONS}")
        self._memo[index] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError(f"expected a list to extend, got a {type(self._stack[-1]).__name__}")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        """Put keys and values, one after the other, into the dict on top of the stack."""
        if type(self._stack[-1]) is not dict:
            raise TypeError(f"expected a dict to fill, got a {type(self._stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._stack[-1][_key(key)] = value

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        self._count(_CALL)
        full = f"{module}.{name}"
        if full not in self._calls:
            raise self._refers_to(full)
        self._stack.append(Name(full))

    def _refers_to(self, full: str) -> UntrustedError:
        return UntrustedError(f"it refers to {shown(full)}, and only {self._what} are read")

    def _call(self, name: Any, arguments: Any) -> None:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise UntrustedError(f"it calls a value of type {type(name).__name__}, and only data is read")
        call = self._calls[name.full]
        if call is None:
            raise UntrustedError(f"it calls {name}, and only data is read")
        self._charge(arguments)
        self._stack.append(call(*arguments))

    def _fill(self, state: Any) -> None:
        """Give the object on top of the stack its state; attributes of a dict or a tensor are left out."""
        target = self._stack[-1]
        if isinstance(target, Name):
            raise UntrustedError(f"it alters {target}, and only data is read")
        if not isinstance(target, Pending):
            return
        if target.value is not None:
            raise UntrustedError("it gives an object its state twice")
        self._charge(state if isinstance(state, tuple) else (state,))
        target.value = target.fill(state)

    def _external(self, identity: Any) -> None:
        if self._persistent is None:
            raise UntrustedError(f"it refers to an external object, {_quoted(identity)}")
        self._stack.append(self._persistent(identity))


_PUSHED = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
"""Instructions that are followed by a value."""


def _filled(value: Any) -> Any:
    return value.value if isinstance(value, Pending) and value.value is not None else value


def _key(key: Any) -> Any:
    """A key of a dict; a tuple becomes text. Others could have hashes that take for ever or are all equal."""
    if key is None or isinstance(key, str | bytes | float) or (isinstance(key, int) and -(2**63) <= key < 2**63):
        return key
    if type(key) is tuple and len(key) <= 8 and all(isinstance(part, str | int | None) for part in key):
        return shown(str(key))
    raise UntrustedError(f"it has a dict with a key of type {type(key).__name__}, expected text or a number")


def _dict(content: Any = (), *_: Any) -> dict[Any, Any]:
    """An OrderedDict of pairs (Python 2), or a Counter of a dict."""
    return content if type(content) is dict else {_key(key): value for key, value in content}


def sequence(content: Any = ()) -> list[Any] | tuple[Any, ...]:
    """Those of a set or a torch.Size."""
    if not isinstance(content, list | tuple):
        raise TypeError(f"expected a list, got a {type(content).__name__}")
    return content


def _settings(state: Any) -> dict[Any, Any]:
    if type(state) is not dict:
        raise TypeError(f"expected the attributes of a namespace, got a {type(state).__name__}")
    return state


def _quoted(value: Any) -> str:
    """Text for a message, the type of anything else: containers that share others can be endless as text."""
    return shown(repr(value)) if isinstance(value, str) else f"a {type(value).__name__}"


def _bytes(content: str | bytes = "", encoding: str = "latin1") -> bytes:
    """Bytes are text in protocols before 3; empty ones have no arguments."""
    if encoding not in ("latin1", "latin-1"):
        raise UntrustedError(f"it uses the encoding {_quoted(encoding)}")
    if not isinstance(content, str | bytes):
        raise TypeError(f"expected bytes, got a {type(content).__name__}")
    return content.encode("latin1") if isinstance(content, str) else content


def _dtype(code: Any, *_: Any) -> Pending:
    """A dtype: a code such as f4, then a state with the byte order."""
    if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", code):
        raise UntrustedError(f"it has an array of dtype {_quoted(code)}, and weights are numbers")
    return Pending(lambda state: np.dtype(code).newbyteorder(">" if state[1] == ">" else "<"))


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, np.dtype):
        raise TypeError("an array without dtype")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("an array without shape")
    if isinstance(content, str):  # Python 2's
        content = content.encode("latin1")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _empty_array(*_: Any) -> Pending:
    return Pending(_array_of_state)


def _array_of_state(state: Any) -> np.ndarray:
    *_, shape, dtype, by_columns, content = state
    return _array(content, dtype, shape, "F" if by_columns else "C")


CALLS: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda *_: {},
    "argparse.Namespace": lambda *_: Pending(_settings),
    "types.SimpleNamespace": lambda *_: Pending(_settings),
    "datetime.datetime": lambda *parts: parts,
    "datetime.timedelta": lambda *parts: parts,
    "_codecs.encode": _bytes,
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    **{
        f"{module}.{kind}": lambda *parts: "/".join(parts)
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
    **{
        f"{module}.{kind}": call
        for module in ("builtins", "__builtin__")  # of Python 3 and 2
        for kind, call in {
            "bytes": _bytes,
            "bytearray": _bytes,
            "set": sequence,
            "frozenset": sequence,
            **dict.fromkeys(("bool", "dict", "float", "int", "list", "object", "str", "tuple")),  # of a defaultdict
        }.items()
    },
    **{
        f"numpy.{core}.{module}.{name}": call
        for core in ("core", "_core")  # before and since numpy 2
        for module, name, call in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", lambda dtype, content: _array(content, dtype, ())),
            ("numeric", "_frombuffer", _array),
        )
    },
}
"""What calls stand for. Settings of a training are plain dicts, paths are text, sets are lists."""
