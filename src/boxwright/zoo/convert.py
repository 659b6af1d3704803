"""Convert another library's weights to a boxwright checkpoint, with a proof that both give the same detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from boxwright.checkpoint import CheckpointError, fill, load_detector, save_detector
from boxwright.files import cache_folder, sha256, write_atomically
from boxwright.predict.predictor import Predictor
from boxwright.terminal import say
from boxwright.zoo.answers import Files, read_answers
from boxwright.zoo.foreign import Arguments, Foreign, ForeignError, Published, few, look_up, module_of
from boxwright.zoo.proof import (
    TOLERANCE,
    Difference,
    Photos,
    detect_in_batches,
    detect_with,
    differences,
    photographs,
    prove,
    repeat,
    worst,
)
from boxwright.zoo.weights import find

if TYPE_CHECKING:
    from boxwright.zoo.foreign import Detect, State

_TIMEOUT = 10.0  # seconds without data from the server

_NOT_IN_THE_WEIGHTS = (
    "A state dict has neither the sizes of images (--min-size, --max-size), nor anchors (--anchor-sizes, "
    "--aspect-ratios), nor the normalisation (--mean, --std), nor the epsilon of frozen norms (--norm-eps), nor "
    "thresholds, of which the library's are used. "
)
_FROZEN = (
    "the batch norms of these weights are frozen: they have no num_batches_tracked. If training began with "
    "torchvision's weights of COCO, its model has an epsilon of {eps:g} in these norms: give --norm-eps {eps:g}. "
    "The weights do not tell; --answers compares with what your own model detects"
)

_NOTHING_COMPARED = (
    "the original detects nothing in these photographs, so nothing was compared: give a folder with some of your "
    "own as --photos"
)


def convert(
    name: str,
    weights: str | Path,
    out: str | Path,
    names: Sequence[str] = (),
    photos: Photos | None = None,
    arguments: Arguments | None = None,
    allow_difference: str = "",
    batches: Sequence[int] = (1, 4),
    prefix: str | None = None,
    answers: Files | None = None,
) -> dict[str, Any]:
    """Write `weights` of the model `name` as a checkpoint to `out`, and return its metadata.

    names             of the classes, if they are not those of the published weights
    photos            images on which both detectors are compared; the bundled ones if not given
    arguments         what the original was built with, where that is not its library's default; known for published
                      files
    allow_difference  the reason for accepting a difference; none is accepted without a reason
    batches           batch sizes; there is one comparison for each
    prefix            of the names of the weights to take, where the file has several of the same detector: those of
                      training and an average; "other_prefixes" in the metadata names those that were not taken
    answers           files of photographs to those of the user's own model's detections in them (`read_answers`). They
                      are compared in place of what the library's model detects

    Raises ForeignError, and writes nothing, if the weights are not those of the model or the detections differ.
    """
    about, weights = look_up(name), Path(weights)
    if not weights.is_file():
        raise ForeignError(f"{weights}: there is no such file")
    module, arguments = module_of(name), arguments or Arguments()
    digest = sha256(weights)
    if arguments.norm_eps is None and about.sha256 and digest.startswith(about.sha256):
        arguments = replace(arguments, norm_eps=about.norm_eps)
    model: Foreign = module.foreign(name, arguments)
    state, prefix, others = find(module.read(weights), model.logits, prefix)
    try:
        num_classes = model.count_classes(state)
        if not 1 <= num_classes <= max(value.numel() for value in state.values()):
            raise ForeignError(f"its classification layer has rows for {num_classes} classes")
        tensors = model.convert(state, num_classes)  # refuses other names and shapes before they cost anything
    except ForeignError as error:
        raise ForeignError(f"{weights}: {error}") from error
    if diverged := sorted(key for key, value in state.items() if not value.isfinite().all()):
        raise ForeignError(
            f"{weights} has numbers that are not finite in {few(diverged)}; take weights from before training diverged"
        )
    names = _class_names(model, num_classes, names)
    detector = model.config.build(num_classes)
    try:
        fill(detector, tensors, weights)
    except CheckpointError as error:
        raise ForeignError(f"{weights} is not {name}: {error}") from error
    converted = detect_with(Predictor(detector, names, model.preprocess, model.threshold))
    if answers:
        photos, detections = read_answers(answers, names, model.first_label)
        lowest = min(float(of_photo.scores.min()) for of_photo in detections if len(of_photo))
        against = f"the detections in {', '.join(Path(file).name for file in answers.values())}"
        proof = prove({"1": detections}, converted, photos, against, lowest)
    else:
        photos = photos or photographs()
        original, against = _original(model, state, num_classes, arguments)
        proof = prove(detect_in_batches(original or converted, photos, batches), converted, photos, against)
    measured = [Difference(**values) for values in proof["measured"]]
    if not all(difference.same for difference in measured) and not allow_difference:
        raise ForeignError(
            f"{name} gives other detections once converted, so nothing was written: against {against}, "
            f"{worst(measured)}; expected {TOLERANCE}. {_NOT_IN_THE_WEIGHTS if answers else ''}To write it all the "
            'same, give a reason with --allow-difference "..."'
        )
    origin = {"name": name, "url": about.url, "file": weights.name, "sha256": digest, "licence": about.licence}
    found = {"prefix": prefix, "other_prefixes": others}
    metadata = {
        "threshold": model.threshold,
        "origin": origin | arguments.given() | {key: value for key, value in found.items() if value},
        "proof": proof | ({"allowed": allow_difference} if allow_difference else {}),
    }
    save_detector(out, detector, model.config, names, model.preprocess, metadata)
    hint = not answers and arguments.norm_eps is None and about.norm_eps is not None and _frozen(state)
    hints = [_FROZEN.format(eps=about.norm_eps)] if hint else []
    hints += [] if any(difference.original for difference in measured) else [_NOTHING_COMPARED]
    return {"detector": type(detector).__name__, "names": list(names), **metadata, "hints": hints}


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
        arguments = Arguments.of(origin)
        model = module_of(origin["name"]).foreign(origin["name"], arguments)
        state = find(module_of(model.name).read(source), model.logits, origin.get("prefix")).state
        original, against = _original(model, state, len(loaded.names), arguments)
        if original is not None:
            of_proof = {name: photos[name] for name in proof["photos"]}
            batches = [int(batch) for batch in proof["answers"]]
            measured += differences(detect_in_batches(original, of_proof, batches), converted, of_proof)
            verified["source"] = {"file": str(source), "against": against}
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
    say(f"boxwright: converting {published} to {converted}, with a comparison on photographs")
    convert(name, published, converted, batches=(4,))
    return converted


def _fetch(about: Published, path: Path) -> None:
    """Download a published file, check its sha256, and write it atomically."""
    say(f"boxwright: downloading {about.url} to {path}")
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


def _original(model: Foreign, state: State, num_classes: int, arguments: Arguments) -> tuple[Detect | None, str]:
    """The library's own model, None where the library is not available, and how to name it in a proof."""
    library = model.name.partition(":")[0]
    try:
        original = model.reference(state, num_classes)
    except ImportError as error:
        return None, f"boxwright itself at the time of import, since {library} is not available ({error})"
    given = ", ".join(f"{name}={value}" for name, value in arguments.given().items())
    how = f"with {given}" if given else "without arguments"
    return original, f"{library} {import_module(library).__version__} as it builds the model {how}"


def _frozen(state: State) -> bool:
    """Whether all batch norms were frozen: those that are not count their batches."""
    return any(key.endswith("running_var") for key in state) and not any(
        key.endswith("num_batches_tracked") for key in state
    )


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
