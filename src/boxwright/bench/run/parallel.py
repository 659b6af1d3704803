"""Work on several tasks: one after the other in this process, or at once by Ray, one worker per GPU."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import islice
from typing import Any, TypeVar

import torch

from boxwright.train.stop import StoppedError, stoppable

Task = TypeVar("Task")
Pool = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]
"""From what is to be done and the tasks to (task, answer) as they are done; an answer may be the Exception raised.
A task is asked for when somebody is free to do it."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES = 3  # to start a worker
_PATIENCE = 60.0  # seconds for workers to end their step and save
_START = 300.0  # seconds for Ray to start on a slow, busy machine

# Ray takes these from the environment. What the user has set stays.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
_EQUAL = {"RAY_worker_niceness": "0"}  # Ray's is 15: workers would get what all others on the machine leave over
_SLOW = {  # what Ray's own processes wait for each other: a machine may be slow, or busy
    "RAY_agent_register_timeout_ms": "300000", "RAY_worker_register_timeout_seconds": "300",
    "RAY_gcs_server_request_timeout_seconds": "300", "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
}  # fmt: skip
_CLOSED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}  # the first: listen to 127.0.0.1 only


@contextmanager
def open_pool(workers: int, address: str, device: torch.device) -> Iterator[Pool]:
    """This process for one worker, and Ray for more. On a GPU each worker has one to itself.

    address  "local" starts Ray here for the while; else that of a cluster, which has all files under the same paths,
             and as many workers as its GPUs (its CPUs, where `device` is one) let it have

    Raises StoppedError on Ctrl-C or SIGTERM where Ray is at work; local workers may end their step and save.
    """
    if workers == 1:
        yield one_by_one
        return
    local = address == "local"
    gpus = _gpus_each(workers, device, local)
    # Ray prints to stdout what workers print; and it sets a signal handler of its own, which the outer `stoppable`
    # takes away again at the end.
    with stoppable(), _environment(local), redirect_stdout(sys.stderr):
        ray = _import_ray()
        here = {"num_cpus": workers, "num_gpus": gpus * workers, "include_dashboard": False} if local else {}
        try:
            with _patient(ray):
                ray.init(address, logging_level="warning", **here)
            with stoppable():
                yield _Workers(ray, workers, gpus, local)
        finally:
            ray.shutdown()


def one_by_one(work: Callable[[Task], Any], tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
    """In order. A disk that is full, and what is no Exception's kind, ends it: no later task would fare better."""
    for task in tasks:
        yield task, _end_or_go_on(_attempt(work, task))


def ends_it(error: Exception) -> bool:
    """Whether this is no fault of the one task."""
    return isinstance(error, OSError) and error.errno in _FULL or isinstance(error, StoppedError)


class _Workers:
    """So many processes at most, each of which does one task after the other.

    Actors rather than Ray's tasks: an actor keeps its process, with all it has imported, and its GPU.
    """

    def __init__(self, ray: Any, most: int, gpus: int, local: bool) -> None:
        self.ray, self.local = ray, local
        self.worker = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
        self.starting: dict[Any, Any] = {}  # the promise of a process id, and whose
        self.free: list[tuple[Any, int]] = []  # workers and their process ids
        self.failures = 0  # to start, one after the other
        for _ in range(most):
            self._start()

    def __call__(self, work: Callable[[Task], Any], tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        left, doing = iter(tasks), {}
        while True:
            for task in islice(left, len(self.free)):
                worker, process = self.free.pop()
                doing[worker.do.remote(work, task)] = (worker, process, task)
            if self.free and not doing:
                return
            done = self._wait(doing)
            if done in self.starting:
                self._welcome(done)
            else:
                worker, process, task = doing.pop(done)
                yield task, _end_or_go_on(self._answer(done, worker, process))

    def _start(self) -> None:
        worker = self.worker.remote(torch.get_num_threads())
        self.starting[worker.process.remote()] = worker

    def _welcome(self, started: Any) -> None:
        worker = self.starting.pop(started)
        try:
            self.free.append((worker, self.ray.get(started)))
            self.failures = 0
        except self.ray.exceptions.RayError as error:
            self.failures += 1
            if self.failures == _TRIES:
                raise RuntimeError(f"{_TRIES} times Ray could not start a worker: {self._reason(error)}") from error
            self._start()

    def _answer(self, done: Any, worker: Any, process: int) -> Any:
        """What the worker has answered, or what became of it; then another takes its place."""
        try:
            answer = self.ray.get(done)
        except self.ray.exceptions.RayError as error:
            self.ray.kill(worker)
            self._start()
            return RuntimeError(self._reason(error))
        self.free.append((worker, process))
        return answer

    def _wait(self, doing: dict[Any, tuple[Any, int, Any]]) -> Any:
        try:
            (done,), _ = self.ray.wait([*doing, *self.starting])
            return done
        except KeyboardInterrupt:
            if self.local and doing:  # nobody else tells them
                for _, process, _ in doing.values():
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGTERM)
                self.ray.wait(list(doing), num_returns=len(doing), timeout=_PATIENCE)
            raise

    def _reason(self, error: Exception) -> str:
        """Why there is no answer, in a line; the rest of what Ray says is for its developers."""
        lines = str(error).strip().splitlines()
        if isinstance(error, self.ray.exceptions.OutOfMemoryError):
            return lines[0]
        for line in lines:
            if detail := line.partition("Worker exit detail: ")[2]:
                return f"its process ended, as when memory runs out or somebody kills it; Ray: {detail.split('. ')[0]}"
        return lines[-1]  # of a traceback


class _Worker:
    """In a process of its own, which Ray starts."""

    def __init__(self, threads: int) -> None:
        """As many threads as elsewhere, so that sums are made in the same order and come out the same."""
        torch.set_num_threads(threads)

    def process(self) -> int:
        return os.getpid()

    def do(self, work: Callable[[Task], Any], task: Task) -> Any:
        answer = _attempt(work, task)
        return _portable(answer) if isinstance(answer, Exception) else answer


def _attempt(work: Callable[[Task], Any], task: Task) -> Any:
    """What came of it, be it the Exception, without the frames it came through: they hold on to the task's tensors."""
    try:
        return work(task)
    except Exception as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _end_or_go_on(answer: Any) -> Any:
    if isinstance(answer, Exception) and ends_it(answer):
        raise answer
    return answer


def _portable(error: Exception) -> Exception:
    """The error, or where pickle cannot make it again elsewhere, its words."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _gpus_each(workers: int, device: torch.device, local: bool) -> int:
    if device.type != "cuda":
        return 0
    if device.index is not None:
        raise ValueError(f"{workers} workers have a GPU each; expected the device cuda, got {device}")
    if local and torch.cuda.device_count() < workers:
        raise ValueError(f"{workers} workers need a GPU each, and there are {torch.cuda.device_count()} here")
    return 1


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError('several trainings at a time need Ray: pip install "boxwright[ray]"') from error
    return ray


@contextmanager
def _patient(ray: Any) -> Iterator[None]:
    """Within, Ray waits `_START` seconds for the node that it starts; its own 30 seconds are no setting."""
    services = ray._private.services
    get_node, deadline = services.get_node, time.monotonic() + _START

    def get_started_node(*arguments: Any) -> Any:
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # it is not known yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    services.get_node = get_started_node
    try:
        yield
    finally:
        services.get_node = get_node


@contextmanager
def _environment(local: bool) -> Iterator[None]:
    """Within, Ray finds what it should; what it reads only when it is imported is there for good.

    Where the user has imported it before, it guards itself in its own way: on all addresses, with a token in ~/.ray.
    """
    settings = dict(_QUIET)
    if local:
        threads = str(torch.get_num_threads())  # Ray would set a number of its own
        settings |= {**_EQUAL, **_SLOW, "OMP_NUM_THREADS": threads}
        if "ray" not in sys.modules:
            for name, value in {**_CLOSED, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
                os.environ.setdefault(name, value)
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
