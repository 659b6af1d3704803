"""Times are taken in turn, stage by stage, and their percentiles come with intervals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector, FasterRCNNConfig, FastRCNNConfig, RetinaNetConfig, SSDConfig
from boxwright.detectors.base import Select
from boxwright.device import machine
from boxwright.measure.speed import (
    STAGES,
    Quartiles,
    flops,
    parameters,
    percentile,
    stages,
    take_latencies,
    throughput,
)  # fmt: skip
from boxwright.predict.predictor import Predictor
from boxwright.predict.program import Compiled, Program
from boxwright.proposals import CachedProposer, SlidingWindow
from boxwright.types import Images, Slots
from halves import NAMES, Halves, halves

SMALL: dict[str, Any] = {
    "ssd": SSDConfig("mobilenet_v3_small"),
    "retinanet": RetinaNetConfig("mobilenet_v3_small", channels=16, depth=1),
    "faster_rcnn": FasterRCNNConfig("mobilenet_v3_small", channels=16, proposals=20, hidden=16),
    "fast_rcnn": FastRCNNConfig(
        "mobilenet_v3_small", channels=16, proposer="sliding_window", proposals=20, hidden=16
    ),
}  # fmt: skip
PREPROCESS = Preprocess(short=64, long=96)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images of noise, which the preprocessing makes 64 x 96, 96 x 64 and 64 x 64."""
    folder, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    found = [folder / f"{number}.png" for number in range(3)]
    for path, size in zip(found, ((80, 120), (120, 80), (80, 80)), strict=True):
        PIL.Image.fromarray(noise.integers(0, 255, (*size, 3), np.uint8)).save(path)
    return found


def predictor(program: Detector | Program) -> Predictor:
    return Predictor(program, ("a", "b", "c"), PREPROCESS, threshold=0.0)


def small(name: str) -> Predictor:
    torch.manual_seed(0)
    return predictor(SMALL[name].build(3))


def hooks(detector: Detector) -> list[int]:
    """How many forward hooks each selection of the detector has."""
    selects = [module for module in detector.modules() if isinstance(module, Select)]
    return [len(select._forward_pre_hooks) + len(select._forward_hooks) for select in selects]


def test_the_quartiles_of_five_numbers():
    assert Quartiles.of([50.0, 10.0, 40.0, 20.0, 30.0]) == (30, 20, 40)
    assert Quartiles.of([3.0]) == (3, 3, 3)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two files, called 0 and 1."""
    monkeypatch.chdir(tmp_path)
    paths = [Path("0"), Path("1")]
    for path in paths:
        path.touch()
    return paths


def detects(name: str, seen: list[str]) -> Callable[[Path], dict[str, float]]:
    """A detection that takes as many seconds as there were detections so far."""

    def detect(path: Path) -> dict[str, float]:
        seen.append(f"{name}{path}")
        return {"detect": float(len(seen))}

    return detect


def test_every_model_has_its_turn_and_the_first_round_does_not_count(files: list[Path]):
    seen: list[str] = []
    measured = take_latencies({name: detects(name, seen) for name in "ab"}, files, rounds=2)
    assert seen == ["a0", "a0", "a1", "b0", "b0", "b1"] * 3  # the first of three does not count
    assert measured.failures == {}
    assert [detection["detect"] for detection in measured.seconds["a"]] == [8, 9, 14, 15]
    assert [detection["detect"] for detection in measured.seconds["b"]] == [11, 12, 17, 18]


def test_turns_are_rows_of_five(tmp_path: Path):
    seen: list[str] = []
    paths = [tmp_path / str(place) for place in range(6)]
    for path in paths:
        path.touch()

    def detect(name: str, path: Path) -> dict[str, float]:
        seen.append(f"{name}{path.name}")
        return {"detect": float(path.name)}

    measured = take_latencies({name: partial(detect, name) for name in "ab"}, paths, rounds=1)
    once = [f"{name}{place}" for name in "ab" for place in (0, 0, 1, 2, 3, 4)] + ["a5", "a5", "b5", "b5"]
    assert seen == once * 2
    assert [one["detect"] for one in measured.seconds["b"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("last", [1, 3])
def test_a_model_that_raises_is_out_and_the_others_go_on(last: int, files: list[Path]):
    """In the first round, or in a later one: half its times are no times."""
    seen: list[str] = []

    def breaks(path: Path) -> dict[str, float]:
        detects("b", seen)(path)
        if seen.count("b1") == last:
            raise MemoryError("no room:\nasked for a lot\nof bytes")
        return {"detect": 1.0}

    models = {"a": detects("a", seen), "b": breaks, "c": detects("c", seen)}
    measured = take_latencies(models, files, rounds=3)
    assert measured.failures == {"b": "MemoryError: asked for a lot"}
    assert {name: len(times) for name, times in measured.seconds.items()} == {"a": 6, "c": 6}
    assert (seen.count("b0"), seen.count("b1")) == (2 * last, last)


def test_times_of_nothing_are_none():
    with pytest.raises(ValueError, match="one image and in one round at least, got 0 and 3"):
        take_latencies({}, [])
    with pytest.raises(ValueError, match="got 1 and 0"):
        take_latencies({}, [Path("a")], rounds=0)


def test_an_error_without_a_message_is_reported_by_its_type(files: list[Path]):
    def breaks(path: Path) -> dict[str, float]:
        raise KeyError

    assert take_latencies({"a": breaks}, files).failures == {"a": "KeyError"}


def test_who_is_first_does_not_wait_for_the_disk(files: list[Path], monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(f"read {path}"))
    take_latencies({name: detects(name, seen) for name in "ab"}, files, rounds=1)
    assert seen == ["read 0", "read 1", "a0", "a0", "a1", "b0", "b0", "b1"] * 2


@pytest.mark.parametrize("name", SMALL)
def test_the_stages_of_a_detection(name: str, paths: list[Path]):
    eager = small(name)
    seconds = stages(eager, paths[0])
    assert tuple(seconds) == STAGES
    assert (seconds["propose"] > 0) == (name == "fast_rcnn")
    assert all(seconds[stage] > 0 for stage in STAGES if stage != "propose")
    assert not any(hooks(eager.detector))


def test_both_selections_are_timed_and_left_alone_when_something_goes_wrong(paths: list[Path]):
    eager = small("faster_rcnn")
    timed = []
    slots = eager.detector.slots

    def breaks(images: Images) -> Slots:
        timed.extend(hooks(eager.detector))
        slots(images)
        raise MemoryError("no room")

    eager.detector.slots = breaks
    with pytest.raises(MemoryError):
        stages(eager, paths[0])
    assert timed == [2, 2] and hooks(eager.detector) == [0, 0]


def test_the_network_is_what_is_left_of_detecting(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    """By a clock that nothing else moves on: detecting takes 16 seconds, and each of its two selections 8 more."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def takes(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments)

        return slow

    eager = small("faster_rcnn")
    monkeypatch.setattr(Select, "forward", takes(8.0, Select.forward))
    for method, seconds in (("prepare", 2.0), ("results", 32.0)):
        setattr(eager, method, takes(seconds, getattr(eager, method)))
    eager.detector.slots = takes(16.0, eager.detector.slots)
    measured = stages(eager, paths[0])
    assert measured == {"decode": 0, "resize": 2, "propose": 0, "network": 16, "nms": 16, "boxes": 32}


class Counting(SlidingWindow):
    """Keeps count of the images that it was asked for."""

    asked: list[tuple[int, ...]] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.asked.append(image.shape)
        return super().__call__(image)


def test_a_image_is_new_to_its_proposer_and_a_cache_is_left_as_it_was(tmp_path: Path, paths: list[Path]):
    cached = CachedProposer(Counting(count=7), tmp_path / "cache", count=5)
    proposed = predictor(SMALL["fast_rcnn"].build(3))
    proposed.propose = cached
    seen, slots = [], proposed.detector.slots
    proposed.detector.slots = lambda images: (seen.append(images.proposals.shape[1]), slots(images))[1]
    proposed(paths[0])
    assert len(Counting.asked) == 1
    stages(proposed, paths[0])
    throughput({"proposed": proposed}, paths[:1], batch=1, rounds=1)
    assert len(Counting.asked) == 1 + 1 + 2 * 2
    assert seen == [5] * 6  # no more boxes than the cache gives
    assert proposed.propose is cached


def test_throughput_is_of_full_batches_in_turn_where_images_have_one_shape(paths: list[Path]):
    one, two = halves(), halves()
    measured = throughput({"one": one, "two": two}, paths[:1] * 3, batch=2, rounds=2)
    assert isinstance(one.detector, Halves) and one.detector.batches == [2, 2] * 3 * 2  # 3 images are 2 batches of 2
    assert measured.failures == {} and all(rate > 0 for rate in measured.rates.values())
    with pytest.raises(ValueError, match="1 or more, got 0"):
        throughput({"one": one}, paths, batch=0)


def test_throughput_of_mixed_shapes_is_that_of_a_stream(paths: list[Path]):
    """The first image comes twice, and has a batch of two."""
    mixed = halves()
    throughput({"mixed": mixed}, paths, batch=2, rounds=1)
    assert isinstance(mixed.detector, Halves) and mixed.detector.batches == [2, 1, 1] * 2 * 2


def test_throughput_counts_images_over_seconds(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    """Half a second a batch of four, in a clock of its own; the first round, at nine a batch, does not count."""

    class Slow(Halves):
        def slots(self, images: Images) -> Slots:
            nonlocal now
            now += 9.0 if not self.batches else 0.5
            return super().slots(images)

    now = 0.0
    monkeypatch.setattr("boxwright.measure.speed.time.perf_counter", lambda: now)
    slow = Predictor(Slow(), NAMES, PREPROCESS)
    broken = Predictor(Slow(), NAMES, PREPROCESS)
    broken.detector.slots = lambda images: 1 / 0  # type: ignore[assignment]
    measured = throughput({"slow": slow, "broken": broken}, paths[:1], batch=4, rounds=3)
    assert measured.rates == {"slow": 8.0}
    assert measured.failures == {"broken": "ZeroDivisionError: division by zero"}


def test_the_percentile_of_what_never_changes():
    assert percentile(np.full((3, 10), 0.25), 95) == (0.25, 0.25, 0.25)


def test_percentiles_are_numpys_and_their_intervals_are_around_them():
    seconds = np.random.default_rng(0).gamma(4.0, size=(3, 50))
    for q in (50, 95):
        value, low, high = percentile(seconds, q)
        assert value == pytest.approx(np.percentile(seconds, q))
        assert low < value < high
        assert percentile(seconds, q) == (value, low, high)  # by the seed
    assert percentile(seconds, 50, seed=1) != percentile(seconds, 50)


def test_the_interval_is_that_of_drawing_rounds_and_images_one_by_one():
    random = np.random.default_rng(1)
    seconds = random.gamma(4.0, size=(3, 1)) + random.gamma(4.0, size=(1, 12))
    drawn = []
    for _ in range(4000):
        rows, columns = random.integers(3, size=3), random.integers(12, size=12)
        drawn.append(np.median([seconds[row, column] for row in rows for column in columns]))
    found = percentile(seconds, 50, replicates=4000)
    assert found[1:] == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), rel=0.05)


def test_two_rounds_that_differ_can_be_seen_in_the_interval():
    """Of two rounds of 1 and 3 seconds a replicate has the one, the other, or, for half of them, both."""
    assert percentile(np.array([[1.0] * 9, [3.0] * 9]), 50) == (2, 1, 3)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (3, 0)])
def test_a_percentile_of_nothing_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="rounds, images"):
        percentile(np.zeros(shape), 50)


class Two(Detector):
    """A strided convolution, a grouped one and a matrix: their operations can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.linear = nn.Linear(8, 4)

    def slots(self, images: Images) -> Slots:
        maps = self.depthwise(self.conv(images.pixels)).relu()
        boxes = self.linear(maps.mean((2, 3)))[:, None]  # (N, 1, 4)
        return Slots(boxes, boxes[..., 0], torch.zeros(len(images), 1, dtype=torch.int64), boxes[..., 0] > 0)


def test_operations_and_parameters_by_hand(paths: list[Path]):
    """On 64 x 96 pixels the maps have 32 x 48 places."""
    places = 32 * 48
    products = places * 8 * 3 * 3**2 + places * 8 * 5**2 + 8 * 4
    assert flops(predictor(Two()), paths[0]) == 2 * products
    assert parameters(Two()) == (8 * 3 * 3**2 + 8) + (8 * 5**2 + 8) + (8 * 4 + 4)


def test_operations_are_counted_in_every_detector_and_the_more_the_larger_the_image(paths: list[Path]):
    for name in SMALL:
        counted = [flops(small(name), path) for path in paths]
        assert counted[0] > counted[2] > 0


def test_a_compiled_detector_finds_the_same_and_is_not_taken_apart(paths: list[Path]):
    """Its 20 proposals are filled up to a hundred."""
    torch._dynamo.reset()
    eager = small("fast_rcnn")
    program = eager.with_program(Compiled(eager.detector, backend="eager"))
    measured = take_latencies({"compiled": lambda path: stages(program, path)}, paths[:1], rounds=2)
    assert measured.failures == {}
    assert [detection["nms"] for detection in measured.seconds["compiled"]] == [0, 0]
    assert all(detection["network"] > 0 and detection["propose"] > 0 for detection in measured.seconds["compiled"])
    expected, found = eager(paths[0]), program(paths[0])
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected.scores)


def test_more_shapes_than_torch_would_compile():
    """Ten, all in the first round; then nothing is compiled any more."""
    torch._dynamo.reset()
    programs = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        programs.append(inputs)
        return graph.forward

    compiled = Compiled(Two(), backend=count)
    images = [torch.zeros(1, 3, 32 * height, 32) for height in range(1, 11)]
    for _ in range(2):
        for pixels in images:
            compiled(Images(pixels, torch.tensor([pixels.shape[2:]])))
    assert len(programs) == len(images)


def test_the_machine_is_named():
    described = machine(torch.device("cpu"))
    assert described["name"] and described["cores"] >= 1 and described["device"] == "cpu"
