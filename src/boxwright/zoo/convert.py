"""Convert another library's weights to a boxwright checkpoint, with a proof that both give the same detections."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from boxwright.checkpoint import CheckpointError, fill, load_detector, save_detector
from boxwright.files import cache_folder, sha256, write_atomically
from boxwright.predict.predictor import Predictor
from boxwright.zoo.foreign import Foreign, ForeignError, Published, look_up, module_of
from boxwright.zoo.proof import TOLERANCE, Difference, Photos, detect_with, photographs, prove, repeat, worst
from boxwright.zoo.weights import find

_TIMEOUT = 10.0  # seconds without data from the server


def convert(
    name: str,
    weights: str | Path,
    out: str | Path,
    names: Sequence[str] = (),
    photos: Photos | None = None,
    norm_eps: float | None = None,
    allow_difference: str = "",
    batches: Sequence[int] = (1, 4),
    prefix: str | None = None,
) -> dict[str, Any]:
    """Write `weights` of the model `name` as a checkpoint to `out`, and return its metadata.

    names             of the classes, if they are not those of the published weights
    photos            images on which both detectors are compared; the bundled ones if not given
    norm_eps          see `boxwright.zoo.torchvision.foreign`; known for published files
    allow_difference  the reason for accepting a difference; none is accepted without a reason
    batches           batch sizes; there is one comparison for each
    prefix            of the names of the weights to take, where the file has several of the same detector: those of
                      training and an average; "other_prefixes" in the metadata names those that were not taken

    Raises ForeignError, and writes nothing, if the weights are not those of the model or the detections differ.
    """
    about, weights = look_up(name), Path(weights)
    module = module_of(name)
    digest = sha256(weights)
    if norm_eps is None and about.sha256 and digest.startswith(about.sha256):
        norm_eps = about.norm_eps
    model = _model(name, norm_eps)
    state, prefix, others = find(module.read(weights), model.logits, prefix)
    num_classes = len(model.names) if model.count_classes is None else model.count_classes(state)
    names = _class_names(model, num_classes, names)
    detector = model.config.build(num_classes)
    try:
        fill(detector, model.convert(state, num_classes), weights)
    except CheckpointError as error:
        raise ForeignError(f"{weights} is not {name}: {error}") from error
    converted = detect_with(Predictor(detector, names, model.preprocess, model.threshold))
    original = converted if model.reference is None else model.reference(state, num_classes)
    proof = prove(original, converted, photos or photographs(), _against(model), batches)
    measured = [Difference(**values) for values in proof["measured"]]
    if not all(difference.same for difference in measured) and not allow_difference:
        raise ForeignError(
            f"{name} gives other detections once converted, so nothing was written: {worst(measured)}; expected "
            f'{TOLERANCE}. To write it all the same, give a reason with --allow-difference "..."'
        )
    origin = {"name": name, "url": about.url, "file": weights.name, "sha256": digest, "licence": about.licence}
    details = {"norm_eps": norm_eps, "prefix": prefix, "other_prefixes": others}
    metadata = {
        "threshold": model.threshold,
        "origin": origin | {key: value for key, value in details.items() if value not in (None, "", ())},
        "proof": proof | ({"allowed": allow_difference} if allow_difference else {}),
    }
    save_detector(out, detector, model.config, names, model.preprocess, metadata)
    return {"detector": type(detector).__name__, "names": list(names), **metadata}


def verify(path: str | Path, photos: Photos | None = None, weights: str | Path | None = None) -> dict[str, Any]:
    """Repeat the proof in a file: its metadata, with `measured` as of now.

    weights  the file it was converted from, to run the original again as well; by default the one in the original
             library's cache, if there

    Raises ForeignError if the file has no proof, or the photographs are not those of the proof.
    """
    loaded = load_detector(path)
    proof, origin = loaded.metadata.get("proof"), loaded.metadata.get("origin", {})
    if proof is None:
        raise ForeignError(f"{path} has no proof: it was not made by `boxwright import`")
    photos = photos or photographs()
    converted = detect_with(Predictor(loaded.detector, loaded.names, loaded.preprocess))
    measured = repeat(proof, converted, photos)
    verified = {"proof": {key: value for key, value in proof.items() if key != "answers"}, "origin": origin}
    source = _source(origin, weights)
    if source is not None:
        model = _model(origin["name"], origin.get("norm_eps"))
        if model.reference is not None:
            state = find(module_of(model.name).read(source), model.logits, origin.get("prefix")).state
            original = model.reference(state, len(loaded.names))
            batches = [int(batch) for batch in proof["answers"]]
            of_proof = {name: photos[name] for name in proof["photos"]}
            again = prove(original, converted, of_proof, _against(model), batches)
            measured += [Difference(**values) for values in again["measured"]]
            verified["source"] = {"file": str(source), "against": again["against"]}
    return verified | {"measured": measured}


def obtain(name: str) -> Path:
    """The checkpoint of another library's published weights, converted at the first use and then cached.

    The published file is taken from the cache of its library, or downloaded. Raises OSError within seconds if it
    cannot be downloaded; the message says where to get the file and where to put it.
    """
    about = look_up(name)
    converted = cache_folder("models") / f"{name.replace(':', '-')}.safetensors"
    if converted.is_file():
        return converted
    published = module_of(name).cached(about)
    if not published.is_file():
        _fetch(about, published)
    print(f"boxwright: converting {published} to {converted}, with a comparison on photographs", file=sys.stderr)
    convert(name, published, converted, batches=(4,))
    return converted


def _fetch(about: Published, path: Path) -> None:
    """Download a published file, check its sha256, and write it atomically."""
    print(f"boxwright: downloading {about.url} to {path}", file=sys.stderr)
    try:
        with urlopen(about.url, timeout=_TIMEOUT) as response:
            content = response.read()
        if not sha256(content).startswith(about.sha256):
            raise ForeignError(f"{about.url}: expected the sha256 {about.sha256}..., got {sha256(content)}; try again")
        write_atomically(path, content)
    except OSError as error:
        raise OSError(
            f"{about.name} is not on this machine and was not downloaded ({getattr(error, 'reason', error)}). Put "
            f"{about.url} at {path}, or convert it from anywhere: boxwright import {about.name} {about.file} "
            "--out mine.safetensors"
        ) from error


def _model(name: str, norm_eps: float | None) -> Foreign:
    """A model of another library, with this epsilon in its batch norms if given."""
    source = module_of(name)
    if norm_eps is None:
        return source.foreign(name)
    if "norm_eps" not in signature(source.foreign).parameters:
        raise ForeignError(f"the epsilon of the batch norms of {name} is fixed; leave out --norm-eps")
    return source.foreign(name, norm_eps)


def _class_names(model: Foreign, num_classes: int, names: Sequence[str]) -> tuple[str, ...]:
    """The given names, checked, or the published ones, or "class 1", "class 2" …; with a background if it has one."""
    background = model.names[:1] if model.names[0] == "__background__" else ()
    count = num_classes - len(background)
    if len(names) == count:
        names = (*background, *names)
    if names and len(names) != num_classes:
        raise ForeignError(f"the weights have {count} classes, and --names has {len(names)}")
    if names and len(set(names)) < num_classes:
        raise ForeignError("--names has a name twice; class names must be different")
    if names or num_classes == len(model.names):
        return tuple(names or model.names)
    return (*background, *(f"class {number}" for number in range(1, count + 1)))


def _against(model: Foreign) -> str:
    """Where the detections in a proof come from."""
    library = model.name.partition(":")[0]
    if model.reference is None:
        return f"boxwright itself at the time of import, since {library} is not available"
    from importlib.metadata import version

    return f"{library} {version(library)}"


def _source(origin: dict[str, Any], weights: str | Path | None) -> Path | None:
    """The file that a checkpoint was converted from, if available."""
    if not origin:
        return None
    path = module_of(origin["name"]).cached(look_up(origin["name"])) if weights is None else Path(weights)
    if path.is_file() and sha256(path) == origin["sha256"]:
        return path
    if weights is not None:
        raise ForeignError(f"{path} is not the file this was converted from, whose sha256 is {origin['sha256']}")
    return None
