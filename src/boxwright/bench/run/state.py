"""The state of a race: its cells, its data, and the progress, which is on disk after every step."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from boxwright import plugins
from boxwright.bench.plan.budget import BudgetError, Pace, Plan, duration, halve, make_plan, parse_budget, smaller
from boxwright.bench.plan.cells import Cell, as_folder
from boxwright.bench.plan.checks import existing, need_room, race_folder, race_splits, unreadable
from boxwright.bench.plan.rules import Rules
from boxwright.bench.result import Rung, Standing
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.job import Effort, Job, measure, pace, propose_ahead, train
from boxwright.bench.run.parallel import Pool
from boxwright.bench.run.record import Record
from boxwright.checkpoint import modules_of, read_config
from boxwright.data.batch import Batches
from boxwright.data.fingerprint import Fingerprint, changes, file_digest, fingerprint
from boxwright.data.formats import Splits
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.config import name_of
from boxwright.detectors.fields import ProposedFields
from boxwright.device import choose_device, cores, loading_workers, machine
from boxwright.progress import Progress
from boxwright.terminal import say
from boxwright.train.config import EARLIER, TrainConfig
from boxwright.train.run import frozen, validate_every
from boxwright.train.stop import StoppedError
from boxwright.units import counted


class _Times(TypedDict):
    key: dict[str, Any]
    images: int
    first: str
    seconds: dict[str, list[dict[str, float]]]
    throughput: dict[str, float]
    failures: dict[str, str]  # fmt: skip


_PARTS = {
    "efforts": dict[str, Effort], "plan": Plan, "rungs": list[Rung], "tries": dict[str, tuple[list[int], int]],
    "failed": dict[str, str], "spent": float, "times": _Times, "footprints": dict[str, dict[str, int | float | None]],
    "made": str, "unreadable": list[str], "proposals": dict[str, dict[str, dict[str, float]]],
}  # fmt: skip
"""What the record has beside settings and configs."""
_RENAMED = {  # keys and values of settings, from earlier versions to today's
    "train pictures": "train images", "val pictures": "val images", "test pictures": "test images", "parts": "splits",
    "val, for there is no test part: it has also chosen the epochs":
        "val, for there is no test split; the epochs are chosen on it too",
}  # fmt: skip
_DATA = "data.json"
_WRITTEN = (
    "cells", "external", "splits.json", _DATA, "results.json", "results.csv", "report.html", "frontier.png",
    "frontier.svg", "lineage.png", "lineage.svg",
)  # fmt: skip
_START = 8.0  # seconds until a process has imported what it needs, and a model is loaded
_TRIES = 3
_OLD_DIGITS = 12  # of fingerprints without the images' content, which cannot be compared


class RaceState:
    """Cells and external models, the train, val and test splits, the rules, and the record on disk."""

    def __init__(
        self, entrants: Sequence[Cell | ExternalModel], dataset: Splits, rules: Rules, training: TrainConfig,
        out: str | Path | None = None, command: str = "",
    ) -> None:  # fmt: skip
        """As `race`; nothing is written yet."""
        if not entrants:
            raise ValueError("a race takes one cell or more, and got none")
        folders = Counter(as_folder(entrant.name).lower() for entrant in entrants)
        if twice := [entrant.name for entrant in entrants if folders[as_folder(entrant.name).lower()] > 1]:
            raise ValueError(f"each name is in a race once, as is the folder of that name; got {', '.join(twice)}")
        if odd := [entrant.name for entrant in entrants if not as_folder(entrant.name).strip(".")]:
            raise ValueError(f"a name is to be a folder's too, got {odd[0]!r}")
        self.cells = {entrant.name: entrant for entrant in entrants if isinstance(entrant, Cell)}
        self.external_models = {entrant.name: entrant for entrant in entrants if isinstance(entrant, ExternalModel)}
        self.rules, self.device = rules, choose_device(rules.device)
        self.dataset, self.data = dataset, dataset.source
        self.splits, self.tested = race_splits(dataset)
        batches = Batches(self.splits["train"], Preprocess(), batch_size=rules.batch)
        self.training = training.resolve(len(batches), self.device)
        self.folder = race_folder(self.dataset, out)
        if not existing(self.folder).is_dir():
            raise ValueError(f"the folder of the results cannot be {self.folder}: {existing(self.folder)} is a file")
        path = self.folder / "bench.json"
        if not path.exists() and (foreign := [name for name in _WRITTEN if (self.folder / name).exists()]):
            raise ValueError(f"{self.folder} has {', '.join(foreign)}, but no bench.json of a race; give another --out")
        for name, cell in self.cells.items():
            if rules.parallel > 1 and plugins.of_session(modules_of(cell.config).values()):
                raise ValueError(
                    f"{rules.parallel} trainings at a time run in other processes, which cannot import what this "
                    f"session registered for {name}; move that into a file and import it, or race with parallel=1"
                )
        before = Fingerprint.read(self.folder / _DATA)
        self.fingerprint = fingerprint(self.splits, self.data, before=before)
        self._different = changes(before, self.fingerprint)
        configs = {name: self._config(cell) for name, cell in self.cells.items()}
        self.record = Record(path, self._settings(), configs, _PARTS, command, self._translate)
        if self._different:  # another seed, which draws other images, was refused above
            raise ValueError(
                f"{path} was made with other data: {'; '.join(self._different)}. Restore the data, or give another "
                "--out"
            )
        self._since = time.monotonic()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.splits["train"].names

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.content["settings"]

    @property
    def failed(self) -> dict[str, str]:
        """The cells that did not work, and why."""
        return self.record.content["failed"]

    @property
    def spent(self) -> float:
        """Seconds so far, in all processes."""
        return self.record.content["spent"] or 0.0

    @property
    def plan(self) -> Plan | None:
        """None before `prepare`."""
        known = self.record.content["plan"]
        return Plan(known["epochs"], tuple(known["rungs"]), known["seconds"]) if known else None

    @property
    def rungs(self) -> list[Rung]:
        """The halvings so far."""
        return [Rung(known["epoch"], tuple(Standing(**standing) for standing in known["standings"]))
                for known in self.record.content["rungs"] or []]  # fmt: skip

    @property
    def epochs(self) -> int:
        """Of a cell that is trained to the end."""
        assert self.training.epochs is not None
        return self.plan.epochs if self.plan else self.training.epochs

    def jobs(self, name: str) -> list[Job]:
        """A cell with each seed."""
        rules, first = self.rules, self.training.seed
        return [
            Job(
                self.cells[name], self.folder / "cells" / as_folder(name) / f"seed{seed}", self.splits,
                replace(self.training, seed=seed, epochs=self.epochs), rules.augment, rules.batch, rules.pretrained,
                rules.device, self.settings["workers"],
            )
            for seed in range(first, first + rules.seeds)
        ]  # fmt: skip

    def retry(self) -> None:
        """Forget failures, so that failed cells are tried again."""
        self.record.content |= {"failed": {}, "tries": {}}

    def running(self, rungs: Sequence[Rung] = ()) -> list[str]:
        """The cells that were not stopped at these rungs and have not failed."""
        stopped = {standing.name for rung in rungs for standing in rung.standings if not standing.kept}
        return [name for name in self.cells if name not in stopped and name not in self.failed]

    def estimate(self, pool: Pool) -> tuple[dict[str, Effort], Plan]:
        """The effort of each cell, from a few steps of each, and the plan. Failures are noted; nothing is written.

        Raises ValueError where no cell can be trained, or the budget is too small.
        """
        efforts: dict[str, Effort] = {}
        started = time.monotonic()
        with Progress("a few steps of each cell", len(self.cells)) as bar:
            for job, answer in pool(pace, [self.jobs(name)[0] for name in self.running()]):
                if isinstance(answer, Exception):
                    self.failed[job.cell.name] = one_line(answer)
                else:
                    efforts[job.cell.name] = answer
                bar.update()
        if not efforts and not self.external_models:
            reasons = "; ".join(f"{names}: {why}" for names, why in by_reason(self.failed).items())
            raise ValueError(f"no cell of this race can be trained: {reasons}")
        rules, paces = self.rules, {name: self._pace(effort) for name, effort in efforts.items()}
        every = validate_every(len(self.splits["val"]), len(self.splits["train"]))
        budget, spent = parse_budget(rules.budget) if rules.budget else None, time.monotonic() - started
        try:
            plan = make_plan(paces, rules.seeds, self.epochs, every, budget, rules.parallel, spent)
        except BudgetError as error:
            assert budget is not None
            raise ValueError(f"{error} {self._smaller(paces, every, budget, spent)}") from None
        return efforts, plan

    def prepare(self, pool: Pool) -> None:
        """Plan, once: a race that continues keeps its plan. Raises OSError where the disk has too little room."""
        if self.plan is None:
            still = {} if self.rules.pretrained else {name: frozen(cell.config) for name, cell in self.cells.items()}
            for names, parts in by_reason({name: parts for name, parts in still.items() if parts}).items():
                say(
                    f"{names}: the backbone has random weights, of which {parts} never learn; leave --no-pretrained out"
                )
            if not self.rules.budget:  # a budget may turn out to be too small for any of it
                self._propose_ahead(self.running())
            efforts, plan = self.estimate(pool)
            need_room(self.folder, efforts.values(), self.rules.seeds)
            self.record.content["efforts"] = {name: effort._asdict() for name, effort in efforts.items()}
            self.keep("plan", asdict(plan))
            self.keep("unreadable", unreadable(self.splits["test"]))
            self.fingerprint.write(self.folder / _DATA)
            if self.dataset.drawn:
                self.dataset.save(self.folder / "splits.json")
        late = [name for name in self.running() if name not in self.record.content["efforts"]]
        if late and self.plan is not None and self.plan.rungs:
            planned = f"{self.record.path} is of a race with a budget, planned without {', '.join(late)}"
            raise ValueError(f"{planned}; give another --out")

    def learn(self, pool: Pool) -> None:
        """Train all cells to the end, or to the rung where they are stopped; then detect on the test split."""
        assert self.plan is not None
        for index, epoch in enumerate((*self.plan.rungs, self.plan.epochs)):
            names = self.running(self.rungs[:index])
            waiting = [job for name in names for job in self.jobs(name) if job.epochs() < epoch]
            self._propose_ahead([job.cell.name for job in waiting])
            self._do(pool, partial(train, until=epoch), waiting)
            if index < len(self.plan.rungs) and len(self.rungs) == index:
                self._halve(epoch)
        raced = [job for name in self.running() for job in self.jobs(name) if not job.finished()]
        self._do(pool, measure, raced)

    def raced(self) -> list[str]:
        """The cells that have detected on the test split with every seed."""
        return [name for name in self.running() if all(job.finished() for job in self.jobs(name))]

    def keep(self, part: str, value: Any) -> None:
        """Write to disk at once, with the time spent."""
        now = time.monotonic()
        self.record.content["spent"] = self.spent + now - self._since
        self._since = now
        self.record.set(part, value)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for results to be compared."""
        rules = self.rules
        return {
            "data": str(self.data.resolve()),
            **{f"{split} images": len(dataset) for split, dataset in self.splits.items()},
            "splits": f"drawn with seed {self.training.seed}" if self.dataset.drawn else "as the data has them",
            "fingerprint": self.fingerprint.digest,
            "tested on": self.tested,
            "classes": self.names,
            **{name: getattr(rules, name) for name in ("seeds", "budget", "augment", "batch", "pretrained")},
            "workers": loading_workers() if rules.workers is None else rules.workers,
            **asdict(self.training),
            **machine(self.device),
        }

    def _config(self, cell: Cell) -> dict[str, Any]:
        """What makes a cell, the content of its file of proposals included."""
        made = {"config": asdict(cell.config), "preprocess": asdict(cell.preprocess)}
        file = cell.config.proposals_file if isinstance(cell.config, ProposedFields) else None
        return made if file is None else {**made, "proposals": file_digest(file)}

    def _translate(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a bench.json of an earlier version in today's names."""
        settings = EARLIER | {_RENAMED.get(key, key): value for key, value in content["settings"].items()}
        tested = settings.get("tested on", "")
        settings["tested on"] = _RENAMED.get(tested, tested)
        if self._different or len(settings.get("fingerprint", "")) == _OLD_DIGITS:
            settings["fingerprint"] = self.fingerprint.digest
        configs = dict(content["configs"])
        for name in configs.keys() & self.cells.keys():
            with suppress(ValueError):  # of another detector: reported as a difference
                config = read_config(name_of(self.cells[name].config), configs[name].get("config", {}))
                made = self._config(self.cells[name])  # earlier versions did not digest a file of proposals
                configs[name] = {**made, **configs[name], "config": json.loads(json.dumps(asdict(config)))}
        return {**content, "settings": settings, "configs": configs}

    def _pace(self, effort: Effort) -> Pace:
        """Extrapolated from a few images to all of them."""
        count = {split: len(dataset) for split, dataset in self.splits.items()}
        detections = min(self.rules.timed, count["test"]) * (self.rules.rounds + 1) * 2  # one by one, and many together
        timing = detections * (effort.image + effort.propose) * len(self.rules.runtimes)
        return Pace(
            epoch=max(1, count["train"] // self.rules.batch) * effort.step,
            validation=count["val"] * effort.image,
            seed=count["test"] * effort.image + _START,
            cell=timing + sum(count.values()) * effort.propose / cores() + _START,
        )

    def _smaller(self, paces: Mapping[str, Pace], every: int, budget: float, spent: float) -> str:
        """The nearest race that fits into the budget, as options of `boxwright bench`."""
        first = next((cell.backbone for cell in self.cells.values() if cell.backbone), "")  # for a cell without one
        cells = {name: {"detectors": cell.detector, "backbones": cell.backbone or first, "sizes": cell.size}
                 for name, cell in self.cells.items()}  # fmt: skip
        found = smaller(cells, paces, self.rules.seeds, self.epochs, every, budget, self.rules.parallel, spent)
        if found is None:
            return "No smaller race of these cells fits"
        options = " ".join(f"--{key} {' '.join(map(str, values))}" for key, values in found[0].items())
        length = f"{counted(found[1].epochs, 'epoch')}, about {duration(found[1].seconds)}"
        return f"The nearest race that fits: {options} ({length})"

    def _propose_ahead(self, names: Iterable[str]) -> None:
        """Compute proposals before the training, so that their time is measured on its own."""
        configs = [self.cells[name].config for name in names]
        for config in {repr(config): config for config in configs if isinstance(config, ProposedFields)}.values():
            taken, known = propose_ahead(config.build_proposer(), self.splits), self.record.content["proposals"]
            if config.proposer not in known or any(of_split["new"] for of_split in taken.values()):
                self.keep("proposals", {**known, config.proposer: taken})

    def _do(self, pool: Pool, work: Callable[[Job], None], jobs: Sequence[Job]) -> None:
        try:
            for job, answer in pool(work, self._in_turn(jobs)):
                others = {name: tried for name, tried in self.record.content["tries"].items() if name != str(job)}
                self.keep("tries", others)
                if isinstance(answer, Exception):
                    self.fail(job.cell.name, f"seed {job.training.seed}: {one_line(answer)}")
        except (StoppedError, KeyboardInterrupt):
            self.keep("tries", {})  # the user stopped it: this is no crash
            raise

    def _halve(self, epoch: int) -> None:
        measured = {}
        for name in self.running(self.rungs):
            effort = Effort(**self.record.content["efforts"][name])
            measured[name] = statistics.fmean(job.ap() for job in self.jobs(name)), effort.image + effort.propose
        rung = halve(epoch, measured)
        for standing in rung.standings:
            outcome = "continues" if standing.kept else "is stopped"
            say(f"after epoch {epoch}: {standing.name} {outcome}, AP {standing.ap:.3f} on val")
        self.keep("rungs", [*(self.record.content["rungs"] or []), asdict(rung)])

    def _in_turn(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The jobs, except where another seed of the cell failed, or the job ended the process several times before."""
        for job in jobs:
            if job.cell.name in self.failed:
                continue
            tries = self.record.content["tries"]
            progress, tried = tries.get(str(job), ([], 0))
            tried = tried + 1 if progress == job.progress() else 1
            if tried > _TRIES:
                why = f"the process ended {_TRIES} times in epoch {job.epochs() + 1} without a word; out of memory?"
                self.fail(job.cell.name, f"seed {job.training.seed}: {why}")
                continue
            self.keep("tries", {**tries, str(job): [job.progress(), tried]})
            yield job

    def fail(self, name: str, why: str) -> None:
        """Take a cell or an external model out of the race."""
        same = next((other for other, reason in self.failed.items() if reason == why and other != name), None)
        say(f"{name} failed{f' as {same} did' if same else f': {why}'}. The others continue")
        self.keep("failed", {**self.failed, name: why})


def by_reason(failed: Mapping[str, str]) -> dict[str, str]:
    """From the names of the cells that failed alike, separated by commas, to the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return {", ".join(alike): reason for reason, alike in names.items()}


def one_line(error: Exception) -> str:
    """An error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
