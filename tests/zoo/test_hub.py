"""Files of the hub, without the hub: its cache as `huggingface_hub` lays it out, and a hub that is played."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from boxwright.zoo.hub import Reference, fetch, parse

hub = pytest.importorskip("huggingface_hub", reason="boxwright[hub] is not installed")

COMMIT = "0123456789abcdef" * 2 + "01234567"
REFERENCE = f"hf:owner/repo/models/best.safetensors@{COMMIT}"
CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that must not be asked."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", asked)
    monkeypatch.setattr(hub, "hf_hub_download", asked)
    return tmp_path


def store(cache: Path) -> Path:
    path = cache / "models--owner--repo" / "snapshots" / COMMIT / "models" / "best.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def test_the_parts_of_a_reference():
    assert parse(REFERENCE) == Reference("owner/repo", "models/best.safetensors", COMMIT, "")
    assert parse(f"{REFERENCE}#sha256={SHA256.upper()}").sha256 == SHA256


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf:owner/repo", "expected hf:owner/repo/path/to/model.safetensors@COMMIT"),
        (f"owner/repo/a.safetensors@{COMMIT}", "expected hf:owner/repo"),
        (f"hf:owner/repo/../a.safetensors@{COMMIT}", "expected hf:owner/repo"),
        (f"hf:owner/repo/pytorch_model.bin@{COMMIT}", "only .safetensors files are loaded.* got 'pytorch_model.bin'"),
        ("hf:owner/repo/a.safetensors", "a commit of 40 hex digits.*huggingface.co/owner/repo/commits/main lists"),
        ("hf:owner/repo/a.safetensors@dev", "a branch may have another.*huggingface.co/owner/repo/commits/dev lists"),
        (f"hf:owner/repo/a.safetensors@{COMMIT[:7]}", "a commit of 40 hex digits"),
        (f"{REFERENCE}#{SHA256}", "expected sha256= and 64 hex digits behind #"),
    ],
)
def test_a_reference_that_pins_nothing_or_is_none(cache: Path, reference: str, said: str):
    with pytest.raises(ValueError, match=said):
        fetch(reference)


def test_what_is_in_the_cache_needs_no_hub(cache: Path):
    path = store(cache)
    assert fetch(REFERENCE) == path
    assert fetch(f"{REFERENCE}#sha256={SHA256}") == path


def test_a_file_with_another_sum_is_not_given(cache: Path):
    path = store(cache)
    with pytest.raises(ValueError, match=f"the file has sha256 {SHA256}; it is {path}"):
        fetch(f"{REFERENCE}#sha256={'0' * 64}")


def test_what_is_not_is_downloaded_once_the_hub_has_answered(cache: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def answer(url: str, timeout: float) -> None:
        assert 0 < timeout <= 10
        asked.append(url)

    def download(repo: str, file: str, *, revision: str, etag_timeout: float) -> str:
        assert (repo, file, revision, len(asked)) == ("owner/repo", "models/best.safetensors", COMMIT, 1)
        return str(store(cache))

    monkeypatch.setattr(hub, "get_hf_file_metadata", answer)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert fetch(f"{REFERENCE}#sha256={SHA256}").read_bytes() == CONTENT
    assert asked == [f"https://huggingface.co/owner/repo/resolve/{COMMIT}/models/best.safetensors"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RepositoryNotFoundError", "no such repository, or it is private"),
        ("GatedRepoError", "granted access"),
        ("RevisionNotFoundError", "no such commit"),
        ("RemoteEntryNotFoundError", "no such file in that commit"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
        ("ConnectTimeout", r"the hub gave no file \(ConnectTimeout: timed out\)"),
    ],
)
def test_what_the_hub_answers_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str):
    kind = getattr(hub.errors, name, None) or type(name, (Exception,), {})

    def refuse(url: str, timeout: float) -> None:
        raise kind.__new__(kind, "timed out")  # the arguments of its __init__ differ by version

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(OSError, match=f"is not in the cache and was not fetched: .*{said}"):
        fetch(REFERENCE)


def test_offline_the_real_library_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        fetch(REFERENCE)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "boxwright\[hub\]"'):
        fetch(REFERENCE)
