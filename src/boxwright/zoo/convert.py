"""From a file of another library's weights to a checkpoint of ours, with the proof that both find the same."""

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
from boxwright.zoo.proof import AMPLIFIED, BOX, SCORE, Difference, Photos, answer_of, photographs, prove, repeat, worst

_PATIENCE = 10.0  # seconds that a server may be silent


def convert(
    name: str,
    weights: str | Path,
    out: str | Path,
    names: Sequence[str] = (),
    photos: Photos | None = None,
    norm_eps: float | None = None,
    allow_difference: str = "",
    batches: Sequence[int] = (1, 4),
) -> dict[str, Any]:
    """Write `weights` of the model `name` as a checkpoint of ours to `out`, and give what it says of itself.

    names             of the classes, where they are not those of the published weights
    photos            on which both are compared; those that come with boxwright if not given
    norm_eps          as of `boxwright.zoo.torchvision.foreign`; that of the published file where it is one
    allow_difference  why a difference is accepted; without a reason none is
    batches           how many photographs are looked at together, one comparison each

    Raises ForeignError, and writes nothing, where the weights are others or the two find different things.
    """
    about, weights = look_up(name), Path(weights)
    module = module_of(name)
    state = module.read(weights)
    digest = sha256(weights)
    if norm_eps is None and about.sha256 and digest.startswith(about.sha256):
        norm_eps = about.norm_eps
    model = _model(name, norm_eps)
    count = len(model.names) if model.classes is None else model.classes(state)
    names = _named(model, count, names)
    detector = model.config.build(count)
    try:
        fill(detector, model.convert(state, count), weights)
    except CheckpointError as error:
        raise ForeignError(f"{weights} is not {name}: {error}") from error
    predictor = Predictor(detector, names, model.preprocess, model.threshold)
    ours = answer_of(predictor)
    theirs = ours if model.reference is None else model.reference(state, count)
    proof = prove(theirs, ours, photos or photographs(), _against(model), batches)
    measured = [Difference(**each) for each in proof["measured"]]
    if not all(each.same for each in measured) and not allow_difference:
        raise ForeignError(
            f"{name} finds other things here than there, so nothing was written: {worst(measured)}; expected equal "
            f"numbers, boxes within {AMPLIFIED * BOX} px and scores within {AMPLIFIED * SCORE}, which rounding does "
            'not pass. To have it all the same, give a reason with --allow-difference "..."'
        )
    origin = {"name": name, "url": about.url, "file": weights.name, "sha256": digest, "licence": about.licence}
    metadata = {
        "threshold": model.threshold,
        "origin": origin | ({} if norm_eps is None else {"norm_eps": norm_eps}),
        "proof": proof | ({"allowed": allow_difference} if allow_difference else {}),
    }
    save_detector(out, detector, model.config, names, model.preprocess, metadata)
    return {"detector": type(detector).__name__, "names": list(names), **metadata}


def verify(path: str | Path, photos: Photos | None = None, weights: str | Path | None = None) -> dict[str, Any]:
    """Repeat the proof in a file: what it says, and `measured` here and now.

    weights  the file it was converted from, whose library is then asked again; found by itself where it is in the
             library's cache

    Raises ForeignError where the file has no proof, or the photographs are not those of the proof.
    """
    loaded = load_detector(path)
    proof, origin = loaded.metadata.get("proof"), loaded.metadata.get("origin", {})
    if proof is None:
        raise ForeignError(f"{path} has no proof: it was not made by `boxwright import`")
    photos = photos or photographs()
    ours = answer_of(Predictor(loaded.detector, loaded.names, loaded.preprocess))
    measured = repeat(proof, ours, photos)
    said = {"proof": {key: value for key, value in proof.items() if key != "answers"}, "origin": origin}
    source = _source(origin, weights)
    if source is not None:
        model = _model(origin["name"], origin.get("norm_eps"))
        if model.reference is not None:
            theirs = model.reference(module_of(model.name).read(source), len(loaded.names))
            batches = [int(batch) for batch in proof["answers"]]
            again = prove(theirs, ours, {name: photos[name] for name in proof["photos"]}, _against(model), batches)
            measured += [Difference(**each) for each in again["measured"]]
            said["source"] = {"file": str(source), "against": again["against"]}
    return said | {"measured": measured}


def obtain(name: str) -> Path:
    """The checkpoint of a foreign model's published weights, converted once and then kept.

    It is made from the published file, where the library it is of keeps it, or where the network allows to fetch it.
    Raises OSError, soon, where it does not, saying where the file is to be had and what to do with it.
    """
    about = look_up(name)
    converted = cache_folder("models") / f"{name.replace(':', '-')}.safetensors"
    if converted.is_file():
        return converted
    published = module_of(name).cached(about)
    if not published.is_file():
        _fetch(about, published)
    print(f"boxwright: {published} becomes {converted}, compared on photographs first", file=sys.stderr)
    convert(name, published, converted, batches=(4,))
    return converted


def _fetch(about: Published, place: Path) -> None:
    """Download a published file, whole and with the sha256 that its publisher names, or not at all."""
    print(f"boxwright: {about.url} is fetched to {place}", file=sys.stderr)
    try:
        with urlopen(about.url, timeout=_PATIENCE) as answer:
            content = answer.read()
        if not sha256(content).startswith(about.sha256):
            raise ForeignError(f"{about.url} gave a file of another sha256 than {about.sha256}...; try again")
        write_atomically(place, content)
    except OSError as error:
        raise OSError(
            f"{about.name} is not on this machine and was not fetched ({getattr(error, 'reason', error)}). Put "
            f"{about.url} at {place}, or convert it from anywhere: boxwright import {about.name} {about.file} "
            "--out mine.safetensors"
        ) from error


def _model(name: str, norm_eps: float | None) -> Foreign:
    """A foreign model, its batch norms with this epsilon where one is given."""
    source = module_of(name)
    if norm_eps is None:
        return source.foreign(name)
    if "norm_eps" not in signature(source.foreign).parameters:
        raise ForeignError(f"the batch norms of {name} have one epsilon always; leave out --norm-eps")
    return source.foreign(name, norm_eps)


def _named(model: Foreign, count: int, names: Sequence[str]) -> tuple[str, ...]:
    """The names of so many classes."""
    first = model.names[:1] if model.names[0] == "__background__" else ()
    if len(names) == count - len(first):
        names = (*first, *names)
    if names and len(names) != count:
        raise ForeignError(f"the weights have {count - len(first)} classes, and --names names {len(names)}")
    if names and len(set(names)) < count:
        raise ForeignError("--names has a name twice; a class is known by its name")
    if names or count == len(model.names):
        return tuple(names or model.names)
    return (*first, *(f"class {number}" for number in range(1, count - len(first) + 1)))


def _against(model: Foreign) -> str:
    """Whose answers a proof keeps."""
    library = model.name.partition(":")[0]
    if model.reference is None:
        return f"boxwright itself when it was imported, for {library} is not at hand"
    from importlib.metadata import version

    return f"{library} {version(library)}"


def _source(origin: dict[str, Any], weights: str | Path | None) -> Path | None:
    """The file that a checkpoint was made from, where it is at hand."""
    if not origin:
        return None
    given = weights is not None
    path = Path(weights) if weights is not None else module_of(origin["name"]).cached(look_up(origin["name"]))
    same = path.is_file() and sha256(path) == origin["sha256"]
    if given and not same:
        raise ForeignError(f"{path} is not the file that this was made from: that has the sha256 {origin['sha256']}")
    return path if same else None
