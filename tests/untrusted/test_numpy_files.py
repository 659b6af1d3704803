"""Arrays of numpy's files: numbers only, and no more than are there."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from boxwright.untrusted import UntrustedError
from boxwright.untrusted.numpy_files import Npz, read_array

TABLE = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("array", [TABLE, TABLE.T, np.array(3), np.zeros((0, 4), "f4"), np.arange(3, dtype=">i2")])
def test_arrays(array: np.ndarray, tmp_path: Path) -> None:
    np.save(stream := BytesIO(), array)
    stream.seek(0)
    found = read_array(stream, len(stream.getvalue()))
    assert found.dtype == array.dtype and np.array_equal(found, array) and found.flags.writeable
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", a=array, b=TABLE)
        archive = Npz(tmp_path / "a.npz")
        assert list(archive.keys()) == ["a", "b"] and np.array_equal(archive["a"], array)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"(2, 3), ", b"(20, 30)", r"array of shape \(20, 30\) and float64 in 48 bytes"),
        (b"(2, 3), ", b"(-2, -3)", r"array of shape \(-2, -3\)"),
        (b"(2, 3), ", b"(9**9,) ", "is not a whole archive of numpy: ValueError"),
        (b"'<f8'", b"'|O8'", "dtype object, expected numbers"),
        (b"'<f8'", b"'<M8'", "dtype datetime64, expected numbers"),
        (b"NUMPY\x01", b"NUMPY\x03", r"version \(3, 0\)"),
    ],
)
def test_absurd_headers(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    np.save(stream := BytesIO(), TABLE)
    whole = stream.getvalue()
    assert old in whole
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as target:
        target.writestr("a.npy", whole.replace(old, new))
    with pytest.raises(UntrustedError, match=message):
        Npz(tmp_path / "a.npz")["a"]


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=TABLE)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole.replace(TABLE.tobytes(), TABLE[::-1].tobytes())):
        path.write_bytes(content)
        with pytest.raises(UntrustedError, match=r"a\.npz \(\d+ bytes\) is not a whole archive of numpy"):
            Npz(path)["a"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a.npy", bytes(100 << 20))
    with pytest.raises(UntrustedError, match=r"declare 104857600, more than compression saves"):
        Npz(path)
