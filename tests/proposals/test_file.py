"""Proposals from a file, and proposers by their names."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from boxwright.proposals import (
    CachedProposer,
    ProposalsFromFile,
    SelectiveSearch,
    SlidingWindow,
    build_proposer,
    image_key,
    read_proposals,
    write_proposals,
)

IMAGE = np.full((5, 6, 3), 2, np.uint8)
KEY = image_key(IMAGE)
BOXES = np.array([[0, 0, 6, 5], [1, 1, 3, 2], [2, 0, 4, 4]], np.float32)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=True, **arrays)  # type: ignore[arg-type]


@pytest.fixture(params=["safetensors", "npz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"proposals.{request.param}"
    if request.param == "npz":
        write_npz(path, {KEY: BOXES.astype(np.float64)})
    else:
        write_proposals(path, {KEY: BOXES}, "by hand")
    return path


def test_boxes_come_back(path: Path):
    propose = ProposalsFromFile(path)
    assert propose.has(IMAGE) and not propose.has(IMAGE[1:])
    assert propose(IMAGE).dtype == np.float32 and np.array_equal(propose(IMAGE), BOXES)
    assert np.array_equal(ProposalsFromFile(path, count=2)(IMAGE), BOXES[:2])
    assert np.array_equal(pickle.loads(pickle.dumps(propose))(IMAGE), BOXES)
    assert {key: boxes.tolist() for key, boxes in read_proposals(path).items()} == {KEY: BOXES.tolist()}


def test_an_image_that_is_not_in_the_file(path: Path):
    with pytest.raises(ValueError, match=r"image of 6x4 pixels .*boxwright propose IMAGE --out .*proposals\."):
        ProposalsFromFile(path)(IMAGE[1:])


def test_a_rewritten_file_is_read_again(path: Path):
    propose = ProposalsFromFile(path)
    propose(IMAGE)
    other = {image_key(IMAGE[1:]): BOXES[:1]}
    write_npz(path, other) if path.suffix == ".npz" else write_proposals(path, other, "by hand")
    assert propose.has(IMAGE[1:]) and not propose.has(IMAGE)


def test_the_metadata_names_the_proposer(tmp_path: Path):
    path = tmp_path / "new" / "proposals.safetensors"
    write_proposals(path, {KEY: BOXES}, "Somebody(seed=3)")
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"boxwright_proposals": "1", "proposer": "Somebody(seed=3)"}
    assert [file.name for file in path.parent.iterdir()] == ["proposals.safetensors"]


@pytest.mark.parametrize("wrong", [np.ones((2, 3), np.float32), np.ones(4, np.float32), np.full((1, 4), np.inf)])
def test_invalid_boxes(wrong: np.ndarray, tmp_path: Path):
    write_npz(tmp_path / "odd.npz", {KEY: wrong})
    with pytest.raises(ValueError, match=r"expected finite boxes \(P, 4\)"):
        ProposalsFromFile(tmp_path / "odd.npz")(IMAGE)


def test_a_file_with_pickles_is_not_unpickled(tmp_path: Path):
    write_npz(tmp_path / "pickled.npz", {KEY: np.array([object()], dtype=object)})
    with pytest.raises(ValueError, match="dtype object, expected numbers"):
        ProposalsFromFile(tmp_path / "pickled.npz")(IMAGE)


@pytest.mark.parametrize("name", ["text.safetensors", "text.npz"])
def test_a_damaged_file(name: str, tmp_path: Path):
    (tmp_path / name).write_text("neither format")
    with pytest.raises(ValueError, match=f"{name} cannot be read as proposals .*write it again"):
        ProposalsFromFile(tmp_path / name)(IMAGE)


def test_other_kinds_of_files(tmp_path: Path):
    with pytest.raises(ValueError, match=r"a \.safetensors or \.npz file, got .*proposals\.mat"):
        ProposalsFromFile(tmp_path / "proposals.mat")
    with pytest.raises(ValueError, match=r"written to a \.safetensors file, got .*proposals\.npz"):
        write_proposals(tmp_path / "proposals.npz", {}, "nobody")


def test_proposers_by_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path))
    kept = tmp_path / "proposals"
    assert build_proposer("selective_search", 300) == CachedProposer(SelectiveSearch("fast", 2000), kept, 300)
    assert build_proposer("selective_search_quality", 5000) == CachedProposer(
        SelectiveSearch("quality", 5000), kept, 5000
    )
    assert build_proposer("sliding_window", 7) == SlidingWindow(count=7)
    assert build_proposer(str(path), 2) == ProposalsFromFile(path, 2)


def test_unknown_names_and_missing_files(tmp_path: Path):
    with pytest.raises(ValueError, match="selective_search, selective_search_quality, sliding_window, or the path"):
        build_proposer("edge_boxes", 10)
    with pytest.raises(FileNotFoundError, match=r"missing\.npz does not exist; .*boxwright propose DATA --out"):
        build_proposer(str(tmp_path / "missing.npz"), 10)(IMAGE)
    with pytest.raises(ValueError, match="count is 1 or more, got 0"):
        build_proposer("sliding_window", 0)
