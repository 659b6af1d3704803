"""Boxes on disk: computed once, identified by content and options, written atomically."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from boxwright.files import cache_folder
from boxwright.proposals import CachedProposer, SelectiveSearch, SlidingWindow, image_key


@dataclass(frozen=True)
class Square:
    side: int = 3
    version: ClassVar[int] = 1

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.full((2, 4), self.side * int(image.max()), np.float32)


@dataclass(frozen=True)
class Newer(Square):
    version: ClassVar[int] = 2


IMAGE = np.full((5, 6, 3), 2, np.uint8)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_key_is_the_content():
    assert image_key(IMAGE) == image_key(IMAGE.copy()) == image_key(np.asfortranarray(IMAGE))
    assert len(image_key(IMAGE)) == 32
    changed = IMAGE.copy()
    changed[4, 5, 2] += 1
    others = [changed, IMAGE.reshape(6, 5, 3), IMAGE[:4]]
    assert len({image_key(image) for image in [IMAGE, *others]}) == 4


def test_an_image_is_computed_once(tmp_path: Path):
    propose = Square()
    cached = CachedProposer(propose, tmp_path)
    assert not cached.has(IMAGE) and files(tmp_path) == []
    first = cached(IMAGE)
    assert np.array_equal(first, propose(IMAGE)) and cached.has(IMAGE)
    (kept,) = files(tmp_path)
    np.save(kept, first + 1)  # shows that it is read
    assert np.array_equal(cached(IMAGE), first + 1)
    assert np.array_equal(CachedProposer(Square(), tmp_path)(IMAGE), first + 1)
    assert not cached.has(IMAGE[1:])


def test_options_and_versions_have_separate_folders(tmp_path: Path):
    proposers = Square(3), Square(4), Newer(3), SlidingWindow(), SlidingWindow(stride=0.5)
    for propose in proposers:
        cached = CachedProposer(propose, tmp_path)
        assert not cached.has(IMAGE)
        assert np.array_equal(cached(IMAGE), propose(IMAGE))
    assert len(files(tmp_path)) == len(proposers)


def test_cached_boxes_serve_smaller_counts(tmp_path: Path):
    CachedProposer(Square(), tmp_path)(IMAGE)
    few = CachedProposer(Square(), tmp_path, count=1)
    assert few.has(IMAGE) and few(IMAGE).shape == (1, 4)
    assert CachedProposer(Square(), tmp_path)(IMAGE).shape == (2, 4)


def damage(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    if kind == "pickled":
        np.save(path, np.array([object()], dtype=object), allow_pickle=True)
    elif kind in ("float64", "three columns", "nan"):
        arrays = {"float64": np.ones((1, 4)), "three columns": np.ones((1, 3), np.float32)}
        np.save(path, arrays.get(kind, np.full((1, 4), np.nan, np.float32)))
    else:
        path.write_bytes({"empty": b"", "cut off": whole[:-5], "text": b"no array", "no header": whole[:20]}[kind])


@pytest.mark.parametrize(
    "kind", ["empty", "cut off", "text", "no header", "pickled", "float64", "three columns", "nan"]
)
def test_a_damaged_file_is_computed_again(kind: str, tmp_path: Path):
    cached = CachedProposer(Square(), tmp_path)
    boxes = cached(IMAGE)
    (kept,) = files(tmp_path)
    whole = kept.read_bytes()
    damage(kind, kept)
    assert not cached.has(IMAGE)
    with pytest.warns(UserWarning, match="damaged proposals"):
        assert np.array_equal(cached(IMAGE), boxes)
    assert files(tmp_path) == [kept] and kept.read_bytes() == whole


def test_flipped_bits_of_a_file_are_detected(tmp_path: Path):
    cached = CachedProposer(Square(), tmp_path)
    boxes = cached(IMAGE)
    (kept,) = files(tmp_path)
    whole = kept.read_bytes()
    taken = []
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(changed)
        taken += [bit] * cached.has(IMAGE)
    assert taken == []
    with pytest.warns(UserWarning, match=r"damaged proposals in .* are computed again"):
        assert np.array_equal(cached(IMAGE), boxes)
    assert kept.read_bytes() == whole and np.array_equal(np.load(kept), boxes)


def test_a_folder_that_cannot_be_written_to_is_warned_about(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    cached = CachedProposer(Square(), tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="BOXWRIGHT_CACHE"):
        assert np.array_equal(cached(IMAGE), Square()(IMAGE))


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert len(CachedProposer(Square(), tmp_path)(IMAGE)) == 2
    assert files(tmp_path) == []


def _many_times(folder: Path) -> None:
    for shade in range(60):
        image = np.full((4, 4, 3), shade, np.uint8)
        assert np.array_equal(CachedProposer(Square(), folder)(image), Square()(image))


def test_processes_share_a_folder(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_many_times, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(files(tmp_path)) == 60 and all(path.suffix == ".npy" for path in files(tmp_path))


def test_it_can_be_pickled(tmp_path: Path):
    cached = CachedProposer(SelectiveSearch("quality", 50), tmp_path, count=20)
    assert pickle.loads(pickle.dumps(cached)) == cached and hash(cached) == hash(pickle.loads(pickle.dumps(cached)))


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path))
    assert CachedProposer(Square()).folder == cache_folder("proposals") == tmp_path / "proposals"
    monkeypatch.delenv("BOXWRIGHT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("proposals") == tmp_path / "home" / ".cache" / "boxwright" / "proposals"


def test_a_proposer_that_is_no_dataclass_is_refused():
    with pytest.raises(ValueError, match="a proposer that is a dataclass"):
        CachedProposer(lambda image: np.zeros((0, 4), np.float32))
