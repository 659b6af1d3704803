"""Models of the Hugging Face Hub, each named with its commit: hf:owner/repo/path/to/model.safetensors@COMMIT.

A file once fetched is read from the cache of `huggingface_hub` and needs no network any more.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from boxwright.files import sha256

_FORM = "hf:owner/repo/path/to/model.safetensors@COMMIT or ...@COMMIT#sha256=DIGEST"
_PATIENCE = 10.0  # seconds until the hub must have answered
_WHY = {
    "GatedRepoError": "one must be granted access on its page, then `hf auth login`",
    "RepositoryNotFoundError": "there is no such repository, or it is private: `hf auth login`",
    "RevisionNotFoundError": "the repository has no such commit",
    "EntryNotFoundError": "the repository has no such file in that commit",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it once to fetch the file",
}


class Reference(NamedTuple):
    """A file of the hub in one commit; `sha256` is "" where nothing was said of it."""

    repo: str
    file: str
    revision: str
    sha256: str


def fetch(reference: str) -> Path:
    """The file that `hf:owner/repo/path@COMMIT` or `...@COMMIT#sha256=DIGEST` names, downloaded unless it was before.

    With HF_HUB_OFFLINE=1 only what was downloaded before is found.

    Raises ValueError where the reference is not of that form, does not pin a commit, or the file is another one;
    ImportError without huggingface_hub; OSError where the hub has no such file or gives no answer within seconds.
    """
    wanted = parse(reference)
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ImportError(f'{reference} needs huggingface_hub: pip install "boxwright[hub]"') from error
    cached = hub.try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    path = Path(cached) if isinstance(cached, str) else _download(wanted, reference)
    if wanted.sha256:
        _check(path, wanted.sha256, reference)
    return path


def parse(reference: str) -> Reference:
    """Raises ValueError saying what is amiss."""
    address, _, digest = reference.removeprefix("hf:").partition("#")
    place, _, revision = address.partition("@")
    owner, name, file = [*place.split("/", 2), "", ""][:3]
    if not reference.startswith("hf:") or not (owner and name and file) or ".." in file.split("/"):
        raise ValueError(f"expected {_FORM}, got '{reference}'")
    if not file.endswith(".safetensors"):
        raise ValueError(f"{reference}: only .safetensors files are loaded, which execute nothing; got '{file}'")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"{reference}: expected a commit of 40 hex digits behind @, since a branch may have another file tomorrow; "
            f"https://huggingface.co/{owner}/{name}/commits/{revision or 'main'} lists the commits"
        )
    if digest and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{reference}: expected sha256= and 64 hex digits behind #, got '{digest}'")
    return Reference(f"{owner}/{name}", file, revision, digest.removeprefix("sha256=").lower())


def _download(wanted: Reference, reference: str) -> Path:
    import huggingface_hub as hub

    try:
        # Left alone, hf_hub_download asks a hub that gives no answer for minutes; so it is asked once before.
        url = hub.hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision)
        hub.get_hf_file_metadata(url, timeout=_PATIENCE)
        return Path(hub.hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, etag_timeout=_PATIENCE))
    except Exception as error:  # of huggingface_hub, and of the HTTP library beneath it, which differs by version
        names = [kind.__name__ for kind in type(error).__mro__]
        why = next((text for name, text in _WHY.items() if name in names), None)
        said = why or f"the hub gave no file ({type(error).__name__}: {' '.join(str(error).split())})"
        raise OSError(f"{reference} is not in the cache and was not fetched: {said}") from error


def _check(path: Path, expected: str, reference: str) -> None:
    if (found := sha256(path)) != expected:
        raise ValueError(f"{reference}: the file has sha256 {found}; it is {path}, to be deleted if it was damaged")
