"""Models of the Hugging Face Hub, pinned to a commit: hf:owner/repo/path/to/model.safetensors@COMMIT.

A file is downloaded once, to the cache of `huggingface_hub`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from boxwright.files import sha256
from boxwright.install import install

_FORM = "hf:owner/repo/path/to/model.safetensors@COMMIT or ...@COMMIT#sha256=DIGEST"
_TIMEOUT = 10.0  # seconds
_REASONS = {
    "GatedRepoError": "request access on its page, then `hf auth login`",
    "RepositoryNotFoundError": "there is no such repository, or it is private: `hf auth login`",
    "RevisionNotFoundError": "the repository has no such commit",
    "EntryNotFoundError": "the repository has no such file in that commit",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it once to fetch the file",
}


class Reference(NamedTuple):
    """A file of the hub in one commit; `sha256` is "" if not given."""

    repo: str
    file: str
    revision: str
    sha256: str


def fetch(reference: str) -> Path:
    """The file named by `hf:owner/repo/path@COMMIT` or `...@COMMIT#sha256=DIGEST`, downloaded if it is not cached.

    With HF_HUB_OFFLINE=1 only cached files are found.

    Raises ValueError if the reference is malformed or pins no commit, or the file has another digest; ImportError
    without huggingface_hub; OSError if the hub has no such file or does not respond within seconds.
    """
    parsed = parse(reference)
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ImportError(f"{reference} needs huggingface_hub: {install('hub')}") from error
    cached = hub.try_to_load_from_cache(parsed.repo, parsed.file, revision=parsed.revision)
    path = Path(cached) if isinstance(cached, str) else _download(parsed, reference)
    if parsed.sha256 and (digest := sha256(path)) != parsed.sha256:
        raise ValueError(f"{reference}: the file {path} has sha256 {digest}; delete it if it was damaged")
    return path


def parse(reference: str) -> Reference:
    """Raises ValueError for a malformed reference."""
    address, _, digest = reference.removeprefix("hf:").partition("#")
    path, _, revision = address.partition("@")
    owner, name, file = [*path.split("/", 2), "", ""][:3]
    if not reference.startswith("hf:") or not (owner and name and file) or ".." in file.split("/"):
        raise ValueError(f"expected {_FORM}, got '{reference}'")
    if not file.endswith(".safetensors"):
        raise ValueError(f"{reference}: only .safetensors files are loaded, which execute nothing; got '{file}'")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"{reference}: expected a commit of 40 hex digits after @, since the file of a branch may change; "
            f"https://huggingface.co/{owner}/{name}/commits/{revision or 'main'} lists the commits"
        )
    if digest and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{reference}: expected sha256= and 64 hex digits after #, got '{digest}'")
    return Reference(f"{owner}/{name}", file, revision, digest.removeprefix("sha256=").lower())


def _download(parsed: Reference, reference: str) -> Path:
    import huggingface_hub as hub

    try:
        # hf_hub_download retries a hub that does not respond for minutes, so it is tried once before.
        url = hub.hf_hub_url(parsed.repo, parsed.file, revision=parsed.revision)
        hub.get_hf_file_metadata(url, timeout=_TIMEOUT)
        return Path(hub.hf_hub_download(parsed.repo, parsed.file, revision=parsed.revision, etag_timeout=_TIMEOUT))
    except Exception as error:  # of huggingface_hub, or of its HTTP library, which differs by version
        names = [kind.__name__ for kind in type(error).__mro__]
        known = next((text for name, text in _REASONS.items() if name in names), None)
        reason = known or f"the hub returned no file ({type(error).__name__}: {' '.join(str(error).split())})"
        raise OSError(f"{reference} is not in the cache and was not downloaded: {reason}") from error
