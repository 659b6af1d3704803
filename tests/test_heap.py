"""The memory of large tensors is kept where commands run, and not otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import boxwright

_FAULTS = """
import resource, sys
import numpy as np
import boxwright
from boxwright import cli

def faults():  # of five arrays of 60 MB, one after the other
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(60_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
{call}
faults()
print(usual, faults())
"""


def count_faults(call: str, tmp_path: Path, **environment: str) -> tuple[int, int]:
    """Page faults before and after a call, in a process of its own."""
    command = [sys.executable, "-c", _FAULTS.format(call=call), "models", "--runs", str(tmp_path)]
    environ = {key: value for key, value in os.environ.items() if key != "BOXWRIGHT_KEEP_HEAP"}
    printed = subprocess.run(command, env=environ | environment, capture_output=True, text=True, check=True).stdout
    before, after = printed.split()[-2:]
    return int(before), int(after)


@pytest.fixture(autouse=True)
def _has_glibc() -> None:
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("this system has another C library than glibc")


def test_a_command_keeps_the_memory_of_large_arrays(tmp_path: Path) -> None:
    before, after = count_faults("cli.main()", tmp_path)
    assert after < before / 10


def test_other_programs_keep_it_when_they_ask(tmp_path: Path) -> None:
    before, after = count_faults("assert boxwright.keep_heap()", tmp_path)
    assert after < before / 10
    before, after = count_faults("cli.main(['--version'])", tmp_path)
    assert after > before / 2


_THREADS = """
import threading
import numpy as np
import boxwright

finished, end = threading.Semaphore(0), threading.Event()

def allocate():
    np.ones(50_000_000, np.uint8)
    finished.release()
    end.wait()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert boxwright.keep_heap()
np.ones(50_000_000, np.uint8)
before = resident()
for _ in range(6):
    threading.Thread(target=allocate).start()
    finished.acquire(timeout=60)
print(resident() - before)
end.set()
"""


def test_threads_share_what_is_kept() -> None:
    """Six threads, one after the other: each keeps nothing of its own."""
    printed = subprocess.run([sys.executable, "-c", _THREADS], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 100_000_000


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")  # where CDLL(None) raises TypeError
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name.lower())
    assert not boxwright.keep_heap()


def test_the_environment_forbids_it(tmp_path: Path) -> None:
    before, after = count_faults("assert not boxwright.keep_heap()", tmp_path, BOXWRIGHT_KEEP_HEAP="0")
    assert after > before / 2
