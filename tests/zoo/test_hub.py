"""Files of the hub, without the hub: a cache in the layout of `huggingface_hub`, and a mocked hub."""

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
    """An empty cache, and a hub that fails the test when called."""

    def called(*_: object, **__: object) -> None:
        raise AssertionError("the hub was called")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", called)
    monkeypatch.setattr(hub, "hf_hub_download", called)
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
    ("reference", "message"),
    [
        ("hf:owner/repo", "expected hf:owner/repo/path/to/model.safetensors@COMMIT"),
        (f"owner/repo/a.safetensors@{COMMIT}", "expected hf:owner/repo"),
        (f"hf:owner/repo/../a.safetensors@{COMMIT}", "expected hf:owner/repo"),
        (f"hf:owner/repo/pytorch_model.bin@{COMMIT}", "only .safetensors files are loaded.* got 'pytorch_model.bin'"),
        ("hf:owner/repo/a.safetensors", "a commit of 40 hex digits.*huggingface.co/owner/repo/commits/main lists"),
        (
            "hf:owner/repo/a.safetensors@dev",
            "the file of a branch may change.*huggingface.co/owner/repo/commits/dev lists",
        ),
        (f"hf:owner/repo/a.safetensors@{COMMIT[:7]}", "a commit of 40 hex digits"),
        (f"{REFERENCE}#{SHA256}", "expected sha256= and 64 hex digits after #"),
    ],
)
def test_a_malformed_or_unpinned_reference(cache: Path, reference: str, message: str):
    with pytest.raises(ValueError, match=message):
        fetch(reference)


def test_a_cached_file_needs_no_hub(cache: Path):
    path = store(cache)
    assert fetch(REFERENCE) == path
    assert fetch(f"{REFERENCE}#sha256={SHA256}") == path


def test_a_file_with_another_digest_is_refused(cache: Path):
    path = store(cache)
    with pytest.raises(ValueError, match=f"the file {path} has sha256 {SHA256}"):
        fetch(f"{REFERENCE}#sha256={'0' * 64}")


def test_a_missing_file_is_downloaded_once_the_hub_has_responded(cache: Path, monkeypatch: pytest.MonkeyPatch):
    urls = []

    def respond(url: str, timeout: float) -> None:
        assert 0 < timeout <= 10
        urls.append(url)

    def download(repo: str, file: str, *, revision: str, etag_timeout: float) -> str:
        assert (repo, file, revision, len(urls)) == ("owner/repo", "models/best.safetensors", COMMIT, 1)
        return str(store(cache))

    monkeypatch.setattr(hub, "get_hf_file_metadata", respond)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert fetch(f"{REFERENCE}#sha256={SHA256}").read_bytes() == CONTENT
    assert urls == [f"https://huggingface.co/owner/repo/resolve/{COMMIT}/models/best.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RepositoryNotFoundError", "no such repository, or it is private"),
        ("GatedRepoError", "request access"),
        ("RevisionNotFoundError", "no such commit"),
        ("RemoteEntryNotFoundError", "no such file in that commit"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
        ("ConnectTimeout", r"the hub returned no file \(ConnectTimeout: timed out\)"),
    ],
)
def test_the_error_gives_the_reason_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str):
    kind = getattr(hub.errors, name, None) or type(name, (Exception,), {})

    def refuse(url: str, timeout: float) -> None:
        raise kind.__new__(kind, "timed out")  # the arguments of its __init__ differ by version

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(OSError, match=f"is not in the cache and was not downloaded: .*{message}"):
        fetch(REFERENCE)


def test_offline_the_real_library_uses_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        fetch(REFERENCE)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install -e "/.*\[hub\]"'):
        fetch(REFERENCE)
