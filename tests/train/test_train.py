"""The loop's arithmetic, by hand on a detector of four numbers, and its options."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boxwright import checkpoint
from boxwright.data.dataset import Dataset
from boxwright.data.formats import Splits, open_dataset
from boxwright.layers.conv import conv_form
from boxwright.train.config import TrainConfig
from boxwright.train.loop import DivergedError, Training, lay_out, train
from boxwright.train.optimize import Average, momentum, parameter_groups, schedule
from boxwright.train.run import Run, need_objects
from shapes import NAMES, write_shapes

TINY = runpy.run_path(str(Path(__file__).with_name("tiny_run.py")))
Counter, Noise = TINY["Counter"], TINY["Noise"]
CPU = torch.device("cpu")


def counting(objects: int = 8, **options: Any) -> Training:
    """A training of the detector that counts, two images to a batch."""
    torch.manual_seed(0)
    options = {"epochs": 2, "precision": "fp32", **options}
    return Training(Counter(), Noise([1, 3] * (objects // 2), batch_size=2), TrainConfig(**options))


def test_schedule_by_hand() -> None:
    rates = [schedule(step, steps=12, warmup=0.25) for step in range(13)]
    assert rates[:3] == [0.25, 0.5, 0.75]  # a quarter of twelve steps to rise
    assert rates[3] == 1.0
    assert rates[6] == pytest.approx(0.75)  # a third along half a cosine: (1 + cos 60°) / 2
    assert rates[12] == pytest.approx(0.0)
    assert schedule(0, steps=1, warmup=0.0) == 1.0


def test_momentum_falls_as_the_rate_rises() -> None:
    config = TrainConfig(momentum=0.95, peak_momentum=0.85)
    assert [momentum(share, config) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.95, 0.9, 0.85])
    run = counting(lr=0.5, momentum=0.95, peak_momentum=0.85)
    betas = [run.optimizer.param_groups[0]["betas"] for _ in run.steps(progress=False)]
    assert betas == [(pytest.approx(0.95 - 0.1 * schedule(number, 8, 0.05)), 0.999) for number in range(8)]


def test_the_rate_stays_at_its_peak_before_it_falls() -> None:
    rates = [schedule(step, steps=12, warmup=0.25, flat=0.5) for step in range(13)]
    assert rates[:3] == [0.25, 0.5, 0.75]
    assert rates[3:10] == [1.0] * 7  # from a quarter of twelve steps to three quarters of them
    assert rates[10] == pytest.approx(0.75)
    assert rates[12] == pytest.approx(0.0)
    assert schedule(3, steps=4, warmup=0.0, flat=1.0) == 1.0
    with pytest.raises(ValueError, match="warmup \\+ flat"):
        TrainConfig(warmup=0.3, flat=0.8)


@pytest.mark.parametrize(("epochs", "light_end", "first"), [(10, 0.1, 9), (45, 0.1, 41), (4, 0.1, 4), (4, 1.0, 0)])
def test_the_last_epochs_are_augmented_lightly(epochs: int, light_end: float, first: int) -> None:
    assert counting(epochs=epochs, light_end=light_end).batches.light_from == first


def test_average_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    count = torch.tensor(7)
    layer.register_buffer("count", count)
    nn.init.constant_(layer.weight, 0.0)
    average = Average(layer, decay=0.5)
    for step, (value, expected) in enumerate([(10.0, 9.0), (10.0, 9.0 + 9 / 11), (0.0, (9.0 + 9 / 11) / 4)], 1):
        nn.init.constant_(layer.weight, value)  # a young average keeps step / (step + 9): 1/10, 2/11, 3/12
        average.update(step)
        assert average.weights["weight"].item() == pytest.approx(expected)
    count += 1
    average.update(1000)  # an old one keeps its decay
    assert average.weights["weight"].item() == pytest.approx((9.0 + 9 / 11) / 8)
    assert average.weights["count"].item() == 8  # whole numbers are not averaged


def test_parameter_groups() -> None:
    detector = TINY["CONFIG"].build(3)
    config = TrainConfig(backbone_lr=0.25, weight_decay=0.1)
    shares = {id(p): (g["share"], g["weight_decay"]) for g in parameter_groups(detector, config) for p in g["params"]}
    of = {name: shares.get(id(parameter)) for name, parameter in detector.named_parameters()}
    assert of["proposer.head.logits.weight"] == (1.0, 0.1)
    assert of["proposer.head.logits.bias"] == (1.0, 0.0)
    learning = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert {name for name, share in of.items() if share} == learning
    backbone = {of[name] for name in learning if ".backbone." in name}
    assert backbone == {(0.25, 0.1), (0.25, 0.0)} or backbone == {(0.25, 0.1)}
    with pytest.raises(ValueError, match="no parameter of the detector learns"):
        parameter_groups(detector.requires_grad_(False), config)


def test_first_step_by_hand() -> None:
    """AdamW's first step moves each weight by the rate, whatever the gradient, once it has decayed."""
    run = counting(lr=0.01, warmup=0.0, weight_decay=0.5, clip=0.0)
    weight, bias = (p.detach().clone() for p in run.detector.parameters())
    next(iter(run.steps(progress=False)))
    moved, shifted = run.detector.parameters()
    torch.testing.assert_close((moved - weight * (1 - 0.01 * 0.5)).abs(), torch.full((1, 3), 0.01))
    torch.testing.assert_close((shifted - bias).abs(), torch.full((1,), 0.01))


def test_losses_rates_and_numbers_of_steps_and_epochs() -> None:
    run = counting(lr=0.5)
    steps = list(run.steps(progress=False))
    assert [step.number for step in steps] == list(range(1, 9))
    assert [step.epoch.number if step.epoch else 0 for step in steps] == [0, 0, 0, 1, 0, 0, 0, 2]
    assert [step.lr for step in steps] == [0.5 * schedule(number, 8, 0.05) for number in range(8)]
    last = steps[-1].epoch
    assert last is not None
    assert last.losses["count"] == pytest.approx(sum(step.losses["count"] for step in steps[4:]) / 4)
    assert last.losses["total"] == last.losses["count"]
    assert run.finished and list(run.steps(progress=False)) == []


def test_losses_are_computed_in_the_training_form(monkeypatch: pytest.MonkeyPatch) -> None:
    forms, compute = [], Counter.compute_loss
    monkeypatch.setattr(Counter, "compute_loss", lambda *given: forms.append(conv_form.get()) or compute(*given))
    list(counting(epochs=1).steps(progress=False))
    assert forms and None not in forms
    assert conv_form.get() is None


def gradient_norms(run: Training) -> list[float]:
    """Of each step, as the optimiser sees it."""
    norms, step = [], run.optimizer.step

    def spy(*arguments: Any) -> None:
        gradients = [p.grad for p in run.detector.parameters() if p.grad is not None]
        norms.append(nn.utils.get_total_norm(gradients).item())
        step(*arguments)

    run.optimizer.step = spy  # type: ignore[method-assign]
    list(run.steps(progress=False))
    return norms


@pytest.mark.parametrize(("device", "groups", "last"), [("cpu", 4, True), ("cuda", 4, False), ("cuda", 1, True)])
def test_grouped_convolutions_stay_as_they_are_on_cuda(device: str, groups: int, last: bool) -> None:
    first = nn.Conv2d(4, 8, 3)
    lay_out(nn.Sequential(first, nn.Conv2d(8, 8, 3, groups=groups)), torch.device(device))
    assert first.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_a_last_step_of_fewer_batches_is_an_average_too() -> None:
    """Six batches by four and two: the second gradient must not be half as long for having half the batches."""
    first, second = gradient_norms(counting(objects=12, accumulate=4, epochs=1, clip=0.0, lr=1e-9))
    assert second == pytest.approx(first, rel=0.1)  # of like images, by the same weights


def test_clip_bounds_the_gradient() -> None:
    assert gradient_norms(counting(clip=1e-3, epochs=1)) == pytest.approx([1e-3] * 4, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision: str) -> None:
    config = TrainConfig(epochs=40, lr=0.1, precision=precision)  # type: ignore[arg-type]
    *_, last = train(Counter(), Noise([1, 3] * 16, 8), config, progress=False)
    assert last.losses["total"] == pytest.approx(1.0, abs=0.1)  # all it can know is that there are two on average


def test_a_loss_that_is_not_finite_is_not_learnt_from() -> None:
    run = counting()
    weights = {key: value.clone() for key, value in run.detector.state_dict().items()}
    loss = run.detector.loss
    run.detector.loss = lambda images, targets: {**loss(images, targets), "other": torch.tensor(math.nan)}
    with pytest.raises(DivergedError, match="the loss other is no longer a finite number in epoch 1, batch 1"):
        list(run.steps(progress=False))
    assert all(torch.equal(weights[key], value) for key, value in run.detector.state_dict().items())


def test_averaged_weights_are_there_for_the_evaluation_only() -> None:
    run = counting(ema=0.9)
    next(iter(run.epochs(progress=False)))
    own = {key: value.clone() for key, value in run.detector.state_dict().items()}
    with run.averaged() as detector:
        assert not detector.training
        assert all(torch.equal(value, run.weights()[key]) for key, value in detector.state_dict().items())
    assert run.detector.training
    assert all(torch.equal(value, own[key]) for key, value in run.detector.state_dict().items())
    assert any(not torch.equal(value, own[key]) for key, value in run.weights().items())


def test_without_an_average_the_weights_are_the_detectors() -> None:
    run = counting(ema=0)
    assert all(value.data_ptr() == run.detector.state_dict()[key].data_ptr() for key, value in run.weights().items())


def test_frozen_parameters_and_statistics_stay(tmp_path: Path) -> None:
    run = TINY["training"](write_shapes(tmp_path, {"train": 4, "val": 2}), epochs=1)
    frozen = {name for name, parameter in run.detector.named_parameters() if not parameter.requires_grad}
    frozen |= {name for name, _ in run.detector.named_buffers()}
    before = {key: value.clone() for key, value in run.detector.state_dict().items()}
    list(run.steps(progress=False))
    changed = {key for key, value in run.detector.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not changed & frozen


@pytest.mark.parametrize(("batches", "epochs"), [(25, 20), (1, 100), (434, 6), (100_000, 6)])
def test_epochs_left_open_follow_the_data(batches: int, epochs: int) -> None:
    assert TrainConfig().resolve(batches, CPU).epochs == epochs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs is 1 or more, got 0"),
        ({"warmup": 1.5}, "warmup is at most 1, got 1.5"),
        ({"lr": 0.0}, "lr is greater than 0; got 0.0"),
        ({"precision": "int8"}, "precision is auto, fp32, bf16 or fp16, got 'int8'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainConfig(**options)


def test_batches_of_another_process_are_refused() -> None:
    with pytest.raises(ValueError, match="this is process 0 of 1, but its batches are for 1 of 2"):
        Training(Counter(), Noise([1] * 8, 2, rank=1, world=2))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return open_dataset(write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 2, "val": 1, "test": 1}))


def changed(splits: Splits, **datasets: Dataset) -> Splits:
    return Splits({**splits, **datasets}, Path("DATA"), "coco", splits.drawn, splits.seed)


def only_crowds(dataset: Dataset) -> Dataset:
    return replace(dataset, crowd=np.ones_like(dataset.crowd))


def of_one_class(dataset: Dataset, label: int) -> Dataset:
    return replace(dataset, labels=np.full_like(dataset.labels, label))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_an_object_that_counts_is_refused(splits: Splits, split: str) -> None:
    need_objects(splits, ("train", "val", "test"), NAMES)
    boxes = len(splits[split].boxes)
    crowds = changed(splits, **{split: only_crowds(splits[split])})
    with pytest.raises(ValueError, match=f"the {split} split has no object to .*; all {boxes} are crowds"):
        need_objects(crowds, ("train", "val", "test"), NAMES)
    squares = changed(splits, **{name: of_one_class(splits[name], 1 if name == split else 0) for name in splits})
    message = f"DATA: the {split} split has no object of circle to .*; it has square {boxes}"
    with pytest.raises(ValueError, match=message):
        need_objects(squares, ("train", "val", "test"), ["circle"])
    need_objects(squares, [name for name in splits if name != split], ["circle"])
    with pytest.raises(ValueError, match="it has no annotation at all.*boxwright data check DATA"):
        need_objects(changed(splits, **{split: squares[split].restrict(["circle"])}), [split], ["circle"])


def test_another_seed_is_proposed_only_where_another_split_has_objects(splits: Splits) -> None:
    empty = {name: dataset.keep_boxes(dataset.labels < 0) for name, dataset in splits.items()}
    drawn = Splits({**splits, "train": empty["train"]}, Path("DATA"), "coco", ("train", "val", "test"), 0)
    with pytest.raises(ValueError, match="it was drawn, and another --seed draws another"):
        need_objects(drawn, ["train"], NAMES)
    with pytest.raises(ValueError, match=r"it has no annotation at all\. What was read"):
        need_objects(Splits(empty, Path("DATA"), "coco", ("train", "val", "test"), 0), ["train"], NAMES)


def test_the_last_epoch_is_the_best_where_val_has_no_object(splits: Splits, tmp_path: Path) -> None:
    """AP is not defined there: the first epoch is not better than the second."""
    parts = changed(splits, val=only_crowds(splits["val"]))
    config = TrainConfig(epochs=2, precision="fp32")
    run = Run(tmp_path, TINY["CONFIG"], parts, TINY["PREPROCESS"], None, 2, config, pretrained=False, device="cpu")
    lines: list[str] = []
    run.train(run.begin(), report=lines.append)
    assert [checkpoint.read(path)[1]["epoch"] for path in (run.best, run.last)] == [2, 2]
    assert all("val has no object: the last epoch counts as the best" in line for line in lines)
