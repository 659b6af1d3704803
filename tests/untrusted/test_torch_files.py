"""Files of torch.save: what torch reads is read alike, and what a file declares must lie inside its bytes."""

from __future__ import annotations

import io
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.untrusted import UntrustedError
from boxwright.untrusted.torch_files import NUMBERS, read_torch

TABLE = torch.arange(24.0).reshape(4, 6)


def saved(path: Path, content: Any, zipped: bool = True) -> bytes:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


def changed(path: Path, entries: dict[str, bytes | None], **options: Any) -> Path:
    """An archive of torch.save with other entries; None leaves one out."""
    with zipfile.ZipFile(path) as source:
        whole = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, content in (whole | entries).items():
            if content is not None:
                target.writestr(name, content)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_as_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        **{str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in NUMBERS},
        "view": TABLE[1:3, ::2],
        "turned": TABLE.T,
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(TABLE),
        "settings": {"size": TABLE.shape, "dtype": torch.float16, "list": [1, None, (2.5, "three")]},
    }
    saved(tmp_path / "a.pth", content, zipped)
    found, expected = read_torch(tmp_path / "a.pth"), torch.load(tmp_path / "a.pth", weights_only=True)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[name], value) and found[name].stride() == value.stride(), name
            assert found[name].dtype == value.dtype
    assert found["turned"].data_ptr() == found["parameter"].data_ptr()
    assert found["settings"] == {"size": (4, 6), "dtype": ("torch.float16",), "list": [1, None, (2.5, "three")]}


def test_the_reference_script_of_torchvision(tmp_path: Path) -> None:
    """Its keys; the arguments are a plain dict."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2)).backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22]).state_dict(),
        "args": Namespace(lr=0.02, device="cuda", lr_steps=[16, 22], output_dir=Path(".")),
        "epoch": 25,
    }
    saved(tmp_path / "a.pth", content)
    found = read_torch(tmp_path / "a.pth")
    assert found["args"] == {"lr": 0.02, "device": "cuda", "lr_steps": [16, 22], "output_dir": ""}
    assert found["epoch"] == 25 and found["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert torch.equal(found["model"]["weight"], model.weight)


def test_a_tensor_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    saved(tmp_path / "a.pth", {"a": TABLE, "b": {"c": TABLE, "d": TABLE[0]}})
    found = read_torch(tmp_path / "a.pth")
    assert found["a"] is found["b"]["c"] and found["a"].data_ptr() == found["b"]["d"].data_ptr()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a/data/0": b"abc"}, "storage 0 declares 96 bytes, and has 3"),
        ({"a/data/0": None}, "storage 0 is missing"),
        ({"a/byteorder": b"big"}, "little-endian machine"),
        ({"a/constants.pkl": b""}, "a TorchScript program"),
        ({"a/data.pkl": None}, "expected one data.pkl, in a folder"),
        ({"b/data.pkl": b"N."}, "expected one data.pkl, in a folder"),
        ({"a/data.pkl": b""}, "is not a whole file of weights"),
    ],
)
def test_damaged_archives(entries: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    saved(tmp_path / "a.pth", TABLE)
    with pytest.raises(UntrustedError, match=message):
        read_torch(changed(tmp_path / "a.pth", entries))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x04K\x06\x86", b"K\x05K\x06\x86", r"shape \(5, 6\) that ends at number 30 of a storage of 24"),
        (b"K\x06K\x01\x86", b"K\x07K\x01\x86", "ends at number 27"),
        (b"K\x06K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86", "a tensor without shape"),
        (b"K\x06K\x01\x86", b"K\x06\x85", "a tensor without shape"),
        (b"FloatStorage", b"QInt8Storage", "refers to torch.QInt8Storage"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_views_lie_inside_their_storage(old: bytes, new: bytes, message: str, zipped: bool, tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.pth", TABLE, zipped)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.pth") as source:
            pickle = source.read("a/data.pkl")
        assert old in pickle
        changed(tmp_path / "a.pth", {"a/data.pkl": pickle.replace(old, new)})
    else:
        assert old in whole
        (tmp_path / "a.pth").write_bytes(whole.replace(old, new))
    with pytest.raises(UntrustedError, match=message):
        read_torch(tmp_path / "a.pth")


def test_archives_that_grow(tmp_path: Path) -> None:
    """Compressed entries, entries that share their bytes, and a list of entries that is longer than any of torch's."""
    path = tmp_path / "a.pth"
    saved(path, torch.zeros(1000, 1000))
    with pytest.raises(UntrustedError, match=r"a/data.pkl is compressed, and torch\.save compresses nothing"):
        read_torch(changed(path, {}, compression=zipfile.ZIP_DEFLATED))
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as target:
        target.writestr("a/data.pkl", b"N.")
        target.writestr("a/data/0", bytes(10_000))
        first = target.infolist()[1]
        for number in range(1, 100):
            info = zipfile.ZipInfo(f"a/data/{number}")
            info.header_offset, info.CRC, info.file_size, info.compress_size = (
                first.header_offset,
                first.CRC,
                10_000,
                10_000,
            )
            target.filelist.append(info)
    path.write_bytes(whole.getvalue())
    with pytest.raises(UntrustedError, match=r"its entries declare more bytes than the \d+ that it has"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", b"N.")
        for number in range(70):
            target.writestr(f"{number}{65_000 * 'a'}", b"")
    with pytest.raises(UntrustedError, match=r"declares a part of \d+ bytes, expected at most 4194304"):
        read_torch(path)


def test_old_files_declare_what_they_have(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.pth", TABLE, zipped=False)
    for old, new, message in (
        (b"K\x18", b"K\x19", "declares 100 bytes, and has 96|of a storage"),
        (b"K\x18N", b"J\xff\xff\xff\x7fN", "declare more bytes than the"),
        (b"little_endian", b"LITTLE_ENDIAN", "little-endian machine"),
    ):
        assert old in whole
        (tmp_path / "a.pth").write_bytes(whole.replace(old, new))
        with pytest.raises(UntrustedError, match=message):
            read_torch(tmp_path / "a.pth")
