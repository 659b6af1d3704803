"""Pickles are read without being executed."""

from __future__ import annotations

import os
import pickle
import subprocess
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest

from boxwright.untrusted import UntrustedError
from boxwright.untrusted.pickles import read_pickle


class Calls:
    """A pickle of this calls a function with some arguments, like a malicious one."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers(tmp_path: Path, protocol: int) -> None:
    noise = np.random.default_rng(0)
    arrays = {
        "two": np.array([[1.5, 2, 3], [4, 5, 6]], dtype="float32"),
        "by_columns": np.asfortranarray(noise.random((3, 4))),
        "turned": np.arange(6, dtype=">i4").reshape(2, 3).T,
        "number": np.array(7),
        "empty": np.zeros((0, 3), dtype="float16"),
        "flags": np.array([True, False]),
    }
    value = {"model": OrderedDict(arrays), "list": [1, (2.5, "three", b"\xff", b"", None)], "scalar": np.float32(0.5)}
    found = read_pickle(write(tmp_path / "a.pkl", value, protocol))
    assert found["list"] == value["list"] and found["scalar"] == 0.5 and list(found["model"]) == list(arrays)
    for name, array in arrays.items():
        assert found["model"][name].dtype == array.dtype
        np.testing.assert_array_equal(found["model"][name], array)


def test_python_2(tmp_path: Path) -> None:
    """Its strings are bytes, and so is the content of its arrays: here the float32 1.0 and -2.0."""
    content = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00\xc0tbs."
    )
    (tmp_path / "old.pkl").write_bytes(content)
    assert read_pickle(tmp_path / "old.pkl")["a"].tolist() == [1.0, -2.0]


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    harm = tmp_path / "harm.pkl"
    harm.write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    with pytest.raises(
        UntrustedError, match=r"harm\.pkl is refused: it refers to os\.system, .*Nothing in it was executed"
    ):
        read_pickle(harm)
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), r"posix\.system|nt\.system"),
        (subprocess.Popen, (["touch", str(mark)],), r"subprocess\.Popen"),
        (eval, (f"open({str(mark)!r}, 'w')",), r"builtins\.eval"),
        (getattr, (str, "join"), r"builtins\.getattr"),
        (np.load, (str(mark),), r"numpy\.load"),
    ):
        with pytest.raises(UntrustedError, match=name):
            read_pickle(write(harm, {"model": {"a": np.ones(2), "b": Calls(function, *arguments)}}, protocol=4))
    assert not mark.exists()


def test_dotted_names_are_refused(tmp_path: Path) -> None:
    """Since protocol 4 a name may be a path through attributes: numpy's `ndarray.__class__` would be `type`."""
    path = tmp_path / "dots.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")
    with pytest.raises(UntrustedError, match=r"numpy\.ndarray\.__class__"):
        read_pickle(path)


def test_only_numbers(tmp_path: Path) -> None:
    """Arrays of objects or of structured dtypes are not weights, and their flags could point anywhere in memory."""
    for array in (
        np.array([{}, None]),
        np.array(["a"]),
        np.zeros(2, [("x", "f4")]),
        np.array(["2000"], "datetime64[D]"),
    ):
        with pytest.raises(UntrustedError, match="weights are numbers"):
            read_pickle(write(tmp_path / "a.pkl", {"a": array}))
    with pytest.raises(UntrustedError, match="encoding 'zlib'"):
        read_pickle(write(tmp_path / "a.pkl", Calls(__import__("_codecs").encode, "a", "zlib")))
    (tmp_path / "a.pkl").write_bytes(b"Pelsewhere\n.")
    with pytest.raises(UntrustedError, match="external object, 'elsewhere'"):
        read_pickle(tmp_path / "a.pkl")


def test_damaged(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.pkl", {"model": {"a": np.arange(100.0)}}, 4).read_bytes()
    path = tmp_path / "b.pkl"
    for content in (
        *(whole[:length] for length in range(0, len(whole), 7)),
        b"<html>no such page</html>",
        b"\x80\x7f.",
    ):
        path.write_bytes(content)
        with pytest.raises(UntrustedError, match=rf"b\.pkl \({len(content)} bytes\) is not a whole pickle.*again$"):
            read_pickle(path)
    with pytest.raises(UntrustedError, match=r"none\.pkl cannot be read: No such file"):
        read_pickle(tmp_path / "none.pkl")
    lies = whole.replace(b"K\x64\x85", b"K\x65\x85")  # the shape claims 101 numbers, and there are 100
    assert lies != whole
    path.write_bytes(lies)
    with pytest.raises(UntrustedError, match="not a whole pickle: ValueError"):
        read_pickle(path)


def test_settings_are_plain(tmp_path: Path) -> None:
    """What trainings save of their classes: attributes are a dict, paths are text, sets are lists."""
    value = {
        "args": Namespace(lr=0.1, out=PurePosixPath("a", "b"), more=SimpleNamespace(seed=1)),
        "counts": Counter("aab"),
        "groups": defaultdict(list, {"a": [1]}),
        "seen": {3},
        "key": {("a", 1): 2},
    }
    for protocol in (2, 4, 5):
        assert read_pickle(write(tmp_path / "a.pkl", value, protocol)) == {
            "args": {"lr": 0.1, "out": "a/b", "more": {"seed": 1}},
            "counts": {"a": 2, "b": 1},
            "groups": {"a": [1]},
            "seen": [3],
            "key": {"('a', 1)": 2},
        }


def test_an_array_of_several_names_is_one(tmp_path: Path) -> None:
    array = np.ones(3)
    found = read_pickle(write(tmp_path / "a.pkl", [array, {"b": array}], 4))
    assert found[0] is found[1]["b"]


TEXT = b"X\x10\x27\x00\x00" + 10_000 * b"a"  # 10,000 letters

HOSTILE = {
    "a function is altered": (b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.", "it alters _codecs.encode"),
    "a class makes what it does not": (b"\x80\x02cbuiltins\nint\n)R.", "it calls builtins.int"),
    "a value is called": (b"\x80\x02K\x01)R.", "it calls a value of type int"),
    "a state is given twice": (b"\x80\x02cargparse\nNamespace\n)\x81}b}b.", "gives an object its state twice"),
    "a number of an object": (b"\x80\x02Nr\xff\xff\xff\xff.", "numbers an object 4294967295"),
    "instructions without end": (b"\x80\x02" + 10_001 * b"N" + b".", "more than 10000 instructions"),
    "the same text again and again": (
        b"\x80\x02](" + TEXT + b"q\x00" + 1000 * b"c_codecs\nencode\nh\x00\x85R" + b"e.",
        "repeats the same bytes",
    ),
    "the same pairs again and again": (
        b"\x80\x02](" + 1_000 * b"NN\x86" + b"eq\x00" + 1000 * b"ccollections\nOrderedDict\nh\x00\x85R" + b".",
        "more than 10000 instructions",
    ),
    "a key that takes for ever": (b"\x80\x02)" + 60 * b"q\x00h\x00\x86" + b"q\x00}h\x00K\x01s.", "a key of type tuple"),
    "keys of one hash": (b"\x80\x02}\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x01Ns.", "a key of type int"),
    "an object by its class": (b"\x80\x02(cos\nsystem\no.", "os.system"),
    "an old instance": (b"(ios\nsystem\n.", "os.system"),
    "an extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
    "a control character": (b"\x80\x02c\x1b[2J\nb\n.", r"refers to \\x1b\[2J\.b,"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.untrusted.pickles._INSTRUCTIONS", 10_000)
    content, message = HOSTILE[kind]
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UntrustedError, match=message):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "declared", [b"B\xff\xff\xff\xff", b"\x8e" + 7 * b"\xff" + b"\x0f", b"\x96" + 6 * b"\xff" + b"\0\0"]
)
def test_sizes_are_believed_as_far_as_bytes_are_there(declared: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x05" + declared + b"abc.")
    with pytest.raises(UntrustedError, match="is not a whole pickle"):
        read_pickle(tmp_path / "a.pkl")


def test_only_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path, tmp_path / "pipe.pkl", Path("/dev/zero")):
        with pytest.raises(UntrustedError, match="expected a regular file"):
            read_pickle(path)
