"""Tasks in order in this process, and at once in Ray's; what ends one of them, and what ends all."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

import boxwright
from boxwright.bench.plan.cells import Cell
from boxwright.bench.run.job import Job, train
from boxwright.bench.run.parallel import Pool, one_by_one, open_pool
from boxwright.data.formats import open_dataset
from boxwright.train.config import TrainConfig
from boxwright.train.stop import StoppedError
from shapes import write_shapes
from train.tiny_run import CONFIG, PREPROCESS

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_tasks_are_done_in_order_and_asked_for_as_the_one_before_is_done():
    happened: list[str] = []
    tasks = (happened.append(f"asked for {task}") or task for task in (4, 9))
    for task, answer in one_by_one(lambda task: task + 1, tasks):
        happened.append(f"{task} gave {answer}")
    assert happened == ["asked for 4", "4 gave 5", "asked for 9", "9 gave 10"]


def test_an_exception_is_an_answer_and_the_others_go_on():
    answers = dict(one_by_one(lambda task: 6 / task, [0, 2]))
    assert isinstance(answers[0], ZeroDivisionError)
    assert answers[2] == 3


def test_what_was_in_memory_when_a_task_failed_is_free_for_the_next():
    held = []

    def work(task: int) -> None:
        weights = torch.zeros(3)
        held.append(weakref.ref(weights))
        try:
            raise KeyError(task)
        except KeyError as error:
            raise MemoryError from error

    ((_, answer),) = one_by_one(work, [1])
    assert isinstance(answer, MemoryError)
    assert held[0]() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_ends_all(number):
    with pytest.raises(OSError, match="full"):
        list(one_by_one(_fail(OSError(number, "full")), [1, 2]))


def test_another_error_of_the_disk_is_that_tasks():
    ((_, answer),) = one_by_one(_fail(OSError(errno.EIO, "broken")), [1])
    assert answer.errno == errno.EIO


@pytest.mark.parametrize("error", [StoppedError("stopped in epoch 3", signal.SIGTERM), KeyboardInterrupt()])
def test_being_stopped_ends_all(error):
    with pytest.raises(type(error)):
        list(one_by_one(_fail(error), [1, 2]))


def test_a_stop_survives_pickle():
    error = pickle.loads(pickle.dumps(StoppedError("stopped in epoch 3", signal.SIGTERM)))
    assert (str(error), error.signal) == ("stopped in epoch 3", signal.SIGTERM)


def test_one_worker_needs_no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_pool(1, "local", CPU) as pool:
        assert pool is one_by_one


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install -e .*\[ray\]"), open_pool(2, "local", CPU):
        pass


def test_every_worker_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="3 workers need a GPU each, and there are 2"), open_pool(3, "local", CUDA):
        pass
    with pytest.raises(ValueError, match="expected the device cuda, got cuda:1"):
        open_pool(2, "local", torch.device("cuda:1")).__enter__()


@pytest.fixture
def made_up(monkeypatch) -> MagicMock:
    """A Ray that does nothing; `init` notes the environment."""
    ray = MagicMock()
    ray.init.side_effect = lambda *_, **__: ray.found.update(os.environ)
    ray.found = {}
    monkeypatch.setitem(sys.modules, "ray", ray)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return ray


def test_ray_is_told_what_to_leave_and_nobody_else_is(made_up, capsys):
    before = dict(os.environ)
    with open_pool(2, "local", CPU):
        print("from a worker")
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    assert wanted.items() <= made_up.found.items()
    assert os.environ == before
    assert made_up.init.call_args.args == ("local",)
    assert capsys.readouterr() == ("", "from a worker\n")
    made_up.shutdown.assert_called_once_with()


def test_what_the_user_says_to_ray_stays(made_up, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with open_pool(2, "local", CPU):
        assert made_up.found["RAY_USAGE_STATS_ENABLED"] == "1"


def test_a_cluster_is_taken_as_it_is(made_up):
    with open_pool(2, "10.0.0.1:6379", CUDA):
        assert "RAY_worker_niceness" not in made_up.found
    assert made_up.init.call_args.args == ("10.0.0.1:6379",)
    assert not made_up.init.call_args.kwargs.keys() & {"num_cpus", "num_gpus"}
    made_up.remote.assert_called_once_with(num_cpus=1, num_gpus=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_stop_and_then_does_again_what_it_did(made_up, number):
    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as caught, open_pool(2, "local", CPU):
        signal.raise_signal(number)
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    made_up.shutdown.assert_called_once_with()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers by Ray, who believe that there are two GPUs."""
    if find_spec("ray") is None:  # not imported here: it reads its settings then
        pytest.skip("needs the extra 'ray'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setenv("PYTHONPATH", str(Path(boxwright.__file__).parents[1]))  # for a checkout that is not installed
        with open_pool(2, "local", CUDA) as pool:
            yield pool


def by_value(work: Callable) -> Callable:
    """For workers, who cannot import this file."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return work


def test_two_workers_are_at_work_at_once_on_a_gpu_each_and_as_here(pool, tmp_path):
    received = [answer for _, answer in pool(by_value(_meet), [tmp_path / "a", tmp_path / "b"])]
    assert {answer["process"] for answer in received}.isdisjoint({os.getpid()})
    assert sorted(answer["CUDA_VISIBLE_DEVICES"] for answer in received) == ["0", "1"]
    for answer in received:
        assert answer["threads"] == torch.get_num_threads()
        assert answer["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
        assert answer["niceness"] == os.nice(0)
        assert answer["RAY_USAGE_STATS_ENABLED"] == "0"


def test_workers_are_kept_and_tasks_asked_for_as_one_is_free(pool):
    asked: list[int] = []
    tasks = (asked.append(task) or task for task in range(6))
    received = {}
    for task, answer in pool(by_value(_tell), tasks):
        received[task] = answer
        assert len(asked) <= len(received) + 1  # of the two, one is free now
    assert sorted(received) == list(range(6))
    assert len({answer["process"] for answer in received.values()}) <= 2


def test_nobody_else_can_reach_ray(pool):
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_no_task_is_no_work(pool):
    assert list(pool(by_value(_tell), [])) == []


def test_a_failure_is_the_tasks_own(pool):
    answers = dict(pool(by_value(_go_wrong), ["raise", "raise own", "die", "fine"]))
    assert answers["fine"] == "fine"
    assert isinstance(answers["raise"], FileNotFoundError)
    assert answers["raise"].filename == "there.jpg"
    assert str(answers["raise own"]) == "_OddError: image 7"
    assert isinstance(answers["die"], RuntimeError)
    assert "its process ended, as when memory runs out or somebody kills it; Ray: Worker" in str(answers["die"])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), StoppedError("stopped", signal.SIGTERM)])
def test_in_a_worker_too_some_errors_end_all(pool, error):
    with pytest.raises(type(error)) as caught:
        list(pool(by_value(_raise), [error]))
    assert str(caught.value) == str(error)


def test_a_training_comes_out_the_same_by_ray(pool, tmp_path):
    data = open_dataset(write_shapes(tmp_path / "data", {"train": 4, "val": 2}))
    parts = {"train": data["train"], "val": data["val"], "test": data["val"]}
    config = TrainConfig(epochs=1, precision="fp32").resolve(2, CPU)
    job = Job(Cell("tiny", CONFIG, PREPROCESS), tmp_path / "here", parts, config, "standard", 2, False, "cpu", 0)
    there = replace(job, folder=tmp_path / "there")
    for way, one in ((one_by_one, job), (pool, there)):
        ((_, answer),) = way(partial(train, until=1), [one])
        assert answer is None
    assert job.best.read_bytes() == there.best.read_bytes()


def test_workers_are_told_of_a_stop_and_waited_for(pool, tmp_path):
    """The last test with these workers: they are gone then."""
    tasks = [tmp_path / "a", tmp_path / "b"]
    watch = threading.Thread(target=_interrupt_when_all, args=(tasks,))
    watch.start()
    with pytest.raises(KeyboardInterrupt):
        list(pool(by_value(_save_when_told), tasks))
    watch.join()
    assert [task.read_text() for task in tasks] == ["saved", "saved"]


def _fail(error: BaseException) -> Callable[[int], None]:
    def work(_task: int) -> None:
        raise error

    return work


def _raise(error: Exception) -> None:
    raise error


def _tell(_task: int) -> dict:
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RAY_USAGE_STATS_ENABLED")
    return {
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "niceness": os.nice(0),
        **{name: os.environ[name] for name in names},
    }


def _meet(path: Path) -> dict:
    """Not alone."""
    path.touch()
    _wait_until(lambda: len(list(path.parent.iterdir())) == 2)
    return _tell(0)


def _wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


class _OddError(Exception):
    """That pickle takes and cannot give back."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def _go_wrong(how: str) -> str:
    if how == "raise":
        raise FileNotFoundError(errno.ENOENT, "no such image", "there.jpg")
    if how == "raise own":
        raise _OddError("image", 7)
    if how == "die":
        os._exit(3)
    return how


def _save_when_told(path: Path) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    path.touch()
    _wait_until(lambda: received)
    path.write_text("saved")


def _interrupt_when_all(begun: list[Path]) -> None:
    _wait_until(lambda: all(path.exists() for path in begun))
    os.kill(os.getpid(), signal.SIGINT)
