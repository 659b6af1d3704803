"""Work on several tasks: one after the other in this process, or at the same time by Ray, one worker per GPU."""

from __future__ import annotations

import gc
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

import torch

from boxwright import plugins
from boxwright.files import DISK_ERRORS
from boxwright.install import install
from boxwright.train.stop import StoppedError, stoppable

Task = TypeVar("Task")
Pool = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]
"""From the work and its tasks to (task, answer) in the order of completion; an answer may be the Exception raised.
A task is taken when a worker is free."""

_TRIES = 3  # to start a worker
_PATIENCE = 60.0  # seconds for workers to end their step and save
_START = 300.0  # seconds for Ray to start on a slow, busy machine

# Ray takes these from the environment. What the user has set stays.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
_EQUAL = {"RAY_worker_niceness": "0"}  # Ray's is 15: workers would get only what other processes leave
_SLOW = {  # how long Ray's own processes wait for each other
    "RAY_agent_register_timeout_ms": "300000", "RAY_worker_register_timeout_seconds": "300",
    "RAY_gcs_server_request_timeout_seconds": "300", "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
}  # fmt: skip
_CLOSED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}  # the first: listen to 127.0.0.1 only


@contextmanager
def open_pool(workers: int, address: str, device: torch.device) -> Iterator[Pool]:
    """This process for one worker, Ray for more. Each worker has a GPU of its own, if `device` is one.

    address  "local" starts Ray here; otherwise that of a cluster, whose nodes see all files under the same paths

    With Ray, raises StoppedError on Ctrl-C or SIGTERM; local workers may end their step and save.
    """
    if workers == 1:
        yield one_by_one
        return
    local = address == "local"
    gpus = int(device.type == "cuda")  # of each worker
    if gpus and device.index is not None:
        raise ValueError(f"{workers} workers have a GPU each; expected the device cuda, got {device}")
    if gpus and local and torch.cuda.device_count() < workers:
        raise ValueError(f"{workers} workers need a GPU each, and there are {torch.cuda.device_count()} here")
    # Ray prints to stdout what workers print; and it sets a signal handler, which the outer `stoppable` removes.
    with stoppable(), _environment(local), redirect_stdout(sys.stderr):
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise ImportError(f"several trainings at a time need Ray: {install('ray')}") from error
        here = {"num_cpus": workers, "num_gpus": gpus * workers, "include_dashboard": False} if local else {}
        try:
            with _patient(ray):
                ray.init(address, logging_level="warning", **here)
            with stoppable():
                yield _Workers(ray, workers, gpus, local)
        finally:
            ray.shutdown()


def one_by_one(work: Callable[[Task], Any], tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
    """In order. A full disk, and an error that is no Exception, ends the work: later tasks would fail too."""
    for task in tasks:
        yield task, _checked(_attempt(work, task))


class _Workers:
    """At most `most` processes, each of which does one task after the other.

    Actors rather than Ray's tasks: an actor keeps its process, with its imports, and its GPU.
    """

    def __init__(self, ray: Any, most: int, gpus: int, local: bool) -> None:
        self.ray, self.local = ray, local
        self.worker = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
        self.starting: dict[Any, Any] = {}  # by the promise of its process id: the worker
        self.free: list[tuple[Any, int]] = []  # workers and their process ids
        self.failures = 0  # to start, in a row
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
                yield task, _checked(self._answer(done, worker, process))

    def _start(self) -> None:
        worker = self.worker.remote(torch.get_num_threads(), plugins.for_new_process())
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
        """The worker's answer; a worker that died is replaced, and its answer is a RuntimeError."""
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
            if self.local and doing:  # workers do not get the signal
                for _, process, _ in doing.values():
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGTERM)
                self.ray.wait(list(doing), num_returns=len(doing), timeout=_PATIENCE)
            raise

    def _reason(self, error: Exception) -> str:
        """Why there is no answer, in a line of Ray's message."""
        lines = str(error).strip().splitlines()
        if isinstance(error, self.ray.exceptions.OutOfMemoryError):
            return lines[0]
        for line in lines:
            if detail := line.partition("Worker exit detail: ")[2]:
                return f"its process ended, as when memory runs out or somebody kills it; Ray: {detail.split('. ')[0]}"
        return lines[-1]  # of a traceback


class _Worker:
    """In a process that Ray starts."""

    def __init__(self, threads: int, known: str) -> None:
        """As many threads as in the main process, so that sums have the same order; `known` are its plugins."""
        torch.set_num_threads(threads)
        plugins.adopt(known)

    def process(self) -> int:
        return os.getpid()

    def do(self, work: Callable[[Task], Any], task: Task) -> Any:
        answer = _attempt(work, task)
        return _portable(answer) if isinstance(answer, Exception) else answer


def _attempt(work: Callable[[Task], Any], task: Task) -> Any:
    """The answer, or the Exception without its frames, which would keep the task's tensors."""
    try:
        return work(task)
    except Exception as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _checked(answer: Any) -> Any:
    """Raises what is no fault of the task: a full disk, or a signal."""
    if isinstance(answer, StoppedError) or isinstance(answer, OSError) and answer.errno in DISK_ERRORS:
        raise answer
    return answer


def _portable(error: Exception) -> Exception:
    """The error, or a RuntimeError with its message where pickle cannot copy it to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def _patient(ray: Any) -> Iterator[None]:
    """Within, Ray waits `_START` seconds for the node that it starts; its own 30 seconds cannot be set."""
    services = ray._private.services
    get_node, deadline = services.get_node, time.monotonic() + _START

    def get_started_node(*arguments: Any) -> Any:
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # not known yet
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
    """Within, Ray's settings are in the environment; those that Ray reads when it is imported stay there.

    If the user has imported Ray before, it listens on all addresses, guarded by a token in ~/.ray.
    """
    settings = dict(_QUIET)
    if local:
        threads = str(torch.get_num_threads())  # Ray would set another number
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
