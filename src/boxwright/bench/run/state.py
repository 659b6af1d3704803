"""A race under way: who runs, on what, how far they are. All of it is on disk after every step, to go on from."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from boxwright.bench.plan.budget import Pace, Plan, halve, make_plan, parse_budget
from boxwright.bench.plan.cells import Cell, as_folder
from boxwright.bench.plan.checks import existing, fingerprint, need_room, race_splits, unreadable
from boxwright.bench.plan.rules import Rules
from boxwright.bench.result import Rung, Standing
from boxwright.bench.run.external import ExternalModel
from boxwright.bench.run.job import Effort, Job, measure, pace, propose_ahead, train
from boxwright.bench.run.parallel import Pool
from boxwright.bench.run.record import Record
from boxwright.checkpoint import read_config
from boxwright.data.batch import Batches
from boxwright.data.formats import Splits, open_dataset
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.config import name_of
from boxwright.detectors.fields import ProposedFields
from boxwright.device import choose_device, cores, loading_workers, machine
from boxwright.progress import Progress, say
from boxwright.train.config import TrainConfig
from boxwright.train.run import validate_every
from boxwright.train.stop import StoppedError

_PARTS = (
    "efforts", "plan", "rungs", "tries", "failed", "spent", "times", "footprints", "made", "unreadable", "proposals",
)  # fmt: skip
_RENAMED = {  # keys and values of settings, from earlier versions to today's
    "train pictures": "train images", "val pictures": "val images", "test pictures": "test images", "parts": "splits",
    "val, for there is no test part: it has also chosen the epochs":
        "val, for there is no test split; the epochs are chosen on it too",
}  # fmt: skip
_START = 8.0  # seconds until a process has imported what it needs, and a model is loaded
_TRIES = 3


@dataclass(frozen=True)
class _Settings:
    """What a cell has of its own."""

    config: Any
    preprocess: Preprocess


class RaceState:
    """Cells and external models, data, rules, and a record of what is known."""

    def __init__(
        self,
        entrants: Sequence[Cell | ExternalModel],
        data: str | Path | Splits,
        rules: Rules,
        training: TrainConfig,
        out: str | Path | None = None,
        command: str = "",
    ) -> None:
        """As `race`; nothing is written yet."""
        if not entrants:
            raise ValueError("a race takes one cell or more, and got none")
        folders = Counter(as_folder(one.name).lower() for one in entrants)
        if twice := [one.name for one in entrants if folders[as_folder(one.name).lower()] > 1]:
            raise ValueError(f"each name is in a race once, as is the folder of that name; got {', '.join(twice)}")
        if odd := [one.name for one in entrants if not as_folder(one.name).strip(".")]:
            raise ValueError(f"a name is to be a folder's too, got {odd[0]!r}")
        self.cells = {one.name: one for one in entrants if isinstance(one, Cell)}
        self.external_models = {one.name: one for one in entrants if isinstance(one, ExternalModel)}
        self.rules, self.device = rules, choose_device(rules.device)
        splits = data if isinstance(data, Splits) else open_dataset(data, training.seed)
        self.data, self.splits = splits.source, splits
        self.parts, self.tested = race_splits(splits)
        batches = Batches(self.parts["train"], Preprocess(), batch_size=rules.batch)
        self.training = training.resolve(len(batches), self.device)
        self.folder = Path(out) if out is not None else Path("runs") / f"{self.data.resolve().stem}-bench"
        if not existing(self.folder).is_dir():
            raise ValueError(f"the folder of the results cannot be {self.folder}: {existing(self.folder)} is a file")
        configs = {name: _Settings(cell.config, cell.preprocess) for name, cell in self.cells.items()}
        self.record = Record(
            self.folder / "bench.json", "bench", self._settings(), configs, _PARTS, command, self._translate
        )
        self._since = time.monotonic()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.parts["train"].names

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.content["settings"]

    @property
    def failed(self) -> dict[str, str]:
        """The cells that did not work, and why."""
        return self.record.content["failed"]

    @property
    def spent(self) -> float:
        """Seconds so far, whoever was at work."""
        return self.record.content["spent"] or 0.0

    @property
    def plan(self) -> Plan | None:
        """None before `prepare`."""
        known = self.record.content["plan"]
        return Plan(known["epochs"], tuple(known["rungs"]), known["seconds"]) if known else None

    @property
    def rungs(self) -> list[Rung]:
        """Those that are behind."""
        return [_rung(known) for known in self.record.content["rungs"] or []]

    @property
    def epochs(self) -> int:
        """Of a cell that gets to the end."""
        assert self.training.epochs is not None
        return self.plan.epochs if self.plan else self.training.epochs

    def jobs(self, name: str) -> list[Job]:
        """A cell with each seed."""
        rules, first = self.rules, self.training.seed
        return [
            Job(
                self.cells[name],
                self.folder / "cells" / as_folder(name) / f"seed{seed}",
                self.parts,
                replace(self.training, seed=seed, epochs=self.epochs),
                rules.augment,
                rules.batch,
                rules.pretrained,
                rules.device,
                self.settings["workers"],
            )
            for seed in range(first, first + rules.seeds)
        ]

    def retry(self) -> None:
        """Forgets what failed: nobody was to blame, or the cause is gone."""
        self.record.content |= {"failed": {}, "tries": {}}

    def running(self, rungs: Sequence[Rung] = ()) -> list[str]:
        """The cells that are still in after these rungs."""
        out = {standing.name for rung in rungs for standing in rung.standings if not standing.kept}
        return [name for name in self.cells if name not in out and name not in self.failed]

    def estimate(self, pool: Pool) -> tuple[dict[str, Effort], Plan]:
        """What each cell takes, from a few steps of each, and the plan. Failures are noted; nothing is written.

        Raises ValueError where no cell can be trained, or the budget is too small.
        """
        efforts: dict[str, Effort] = {}
        started = time.monotonic()
        with Progress("a few steps of each cell", len(self.cells)) as bar:
            for job, answer in pool(pace, [self.jobs(name)[0] for name in self.running()]):
                if isinstance(answer, Exception):
                    self.failed[job.cell.name] = said(answer)
                else:
                    efforts[job.cell.name] = answer
                bar.update()
        if not efforts and not self.external_models:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.failed.items())
            raise ValueError(f"no cell of this race can be trained: {reasons}")
        budget = parse_budget(self.rules.budget) - (time.monotonic() - started) if self.rules.budget else None
        paces = {name: self._pace(effort) for name, effort in efforts.items()}
        every = validate_every(len(self.parts["val"]), len(self.parts["train"]))
        return efforts, make_plan(paces, self.rules.seeds, self.epochs, every, budget, self.rules.parallel)

    def prepare(self, pool: Pool) -> None:
        """Plan, once: a race that goes on keeps its plan. Raises OSError where the disk has no room for all of it."""
        if self.plan is None:
            if not self.rules.budget:  # a budget may turn out to be too small for any of it
                self._propose_ahead(self.running())
            efforts, plan = self.estimate(pool)
            need_room(self.folder, efforts.values(), self.rules.seeds)
            self.record.content["efforts"] = {name: effort._asdict() for name, effort in efforts.items()}
            self.keep("plan", asdict(plan))
            self.keep("unreadable", unreadable(self.parts["test"]))
            if self.splits.drawn:
                self.splits.save(self.folder / "splits.json")
        late = [name for name in self.running() if name not in self.record.content["efforts"]]
        if late and self.plan is not None and self.plan.rungs:
            raise ValueError(
                f"{self.record.path} is of a race with a budget, planned without {', '.join(late)}; give another --out"
            )

    def learn(self, pool: Pool) -> None:
        """All cells to the end, or to the rung where they are put out; and what each of them finds in the test part."""
        assert self.plan is not None
        for place, epoch in enumerate((*self.plan.rungs, self.plan.epochs)):
            before = self.rungs[:place]
            self._train(pool, [job for name in self.running(before) for job in self.jobs(name)], epoch)
            if place < len(self.plan.rungs) and len(self.rungs) == place:
                self._halve(epoch)
        raced = [job for name in self.running() for job in self.jobs(name) if not job.finished()]
        self._do(pool, measure, raced)

    def raced(self) -> list[str]:
        """The cells of which is known what they find in the test part."""
        return [name for name in self.running() if all(job.finished() for job in self.jobs(name))]

    def keep(self, part: str, value: Any) -> None:
        """On disk at once, with the time that has gone by."""
        now = time.monotonic()
        self.record.content["spent"] = self.spent + now - self._since
        self._since = now
        self.record.set(part, value)

    def _settings(self) -> dict[str, Any]:
        """What must be the same for results to stand side by side."""
        rules = self.rules
        same = ("seeds", "budget", "augment", "batch", "pretrained")
        return {
            "data": str(self.data.resolve()),
            **{f"{part} images": len(dataset) for part, dataset in self.parts.items()},
            "splits": f"drawn with seed {self.training.seed}" if self.splits.drawn else "as the data has them",
            "fingerprint": fingerprint(self.parts),
            "tested on": self.tested,
            "classes": self.names,
            **{name: getattr(rules, name) for name in same},
            "workers": loading_workers() if rules.workers is None else rules.workers,
            **asdict(self.training),
            **machine(self.device),
        }

    def _translate(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a bench.json of an earlier version in today's names."""
        settings = {_RENAMED.get(key, key): value for key, value in content["settings"].items()}
        tested = settings.get("tested on", "")
        settings["tested on"] = _RENAMED.get(tested, tested)
        configs = dict(content["configs"])
        for name in configs.keys() & self.cells.keys():
            with suppress(ValueError):  # of another detector: the difference is told
                config = read_config(name_of(self.cells[name].config), configs[name]["config"])
                configs[name] = {**configs[name], "config": json.loads(json.dumps(asdict(config)))}
        return {**content, "settings": settings, "configs": configs}

    def _pace(self, effort: Effort) -> Pace:
        """For all images what a few took."""
        count = {part: len(dataset) for part, dataset in self.parts.items()}
        looks = min(self.rules.timed, count["test"]) * (self.rules.rounds + 1) * 2  # one by one, and many together
        return Pace(
            epoch=max(1, count["train"] // self.rules.batch) * effort.step,
            validation=count["val"] * effort.image,
            seed=count["test"] * effort.image + _START,
            cell=looks * (effort.image + effort.propose) * len(self.rules.runtimes)
            + sum(count.values()) * effort.propose / cores()
            + _START,
        )

    def _train(self, pool: Pool, jobs: Sequence[Job], until: int) -> None:
        waiting = [job for job in jobs if job.epochs() < until]
        self._propose_ahead([job.cell.name for job in waiting])
        self._do(pool, partial(train, until=until), waiting)

    def _propose_ahead(self, names: Iterable[str]) -> None:
        """Training finds proposals on disk: what computing them takes is a number of its own."""
        configs = [self.cells[name].config for name in names]
        for config in {repr(config): config for config in configs if isinstance(config, ProposedFields)}.values():
            taken, known = propose_ahead(config.build_proposer(), self.parts), self.record.content["proposals"]
            if config.proposer not in known or any(of["new"] for of in taken.values()):
                self.keep("proposals", {**known, config.proposer: taken})

    def _do(self, pool: Pool, work: Callable[[Job], None], jobs: Sequence[Job]) -> None:
        try:
            for job, answer in pool(work, self._in_turn(jobs)):
                self._note(job, answer)
        except (StoppedError, KeyboardInterrupt):
            self.keep("tries", {})  # it was asked to
            raise

    def _halve(self, epoch: int) -> None:
        efforts = {name: Effort(**known) for name, known in self.record.content["efforts"].items()}
        measured = {
            name: (
                statistics.fmean(job.ap() for job in self.jobs(name)),
                efforts[name].image + efforts[name].propose,
            )
            for name in self.running(self.rungs)
        }
        rung = halve(epoch, measured)
        for standing in rung.standings:
            going = "goes on" if standing.kept else "is out"
            say(f"after epoch {epoch}: {standing.name} {going}, AP {standing.ap:.3f} on val")
        self.keep("rungs", [*(self.record.content["rungs"] or []), asdict(rung)])

    def _in_turn(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Each job as its turn comes, unless another seed of its cell failed, or it has ended the process before."""
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

    def _note(self, job: Job, answer: object) -> None:
        """What came of a job."""
        self.keep("tries", {name: tried for name, tried in self.record.content["tries"].items() if name != str(job)})
        if isinstance(answer, Exception):
            self.fail(job.cell.name, f"seed {job.training.seed}: {said(answer)}")

    def fail(self, name: str, why: str) -> None:
        """A cell or an external model is out; the others go on."""
        say(f"{name} failed: {why}. The others go on")
        self.keep("failed", {**self.failed, name: why})


def _rung(known: Mapping[str, Any]) -> Rung:
    return Rung(known["epoch"], tuple(Standing(**standing) for standing in known["standings"]))


def said(error: Exception) -> str:
    """An error in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
