"""The machine: which device a name means here, its arithmetic, its cores. torch is imported when it is needed."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from boxwright.typed import either

if TYPE_CHECKING:
    import torch
    from torch import Tensor


InferencePrecision = Literal["fp32", "bf16"]
"""The arithmetic of convolutions and linear layers in detection."""


def check_inference_precision(precision: object) -> None:
    """Raises ValueError for what is not an `InferencePrecision`."""
    if precision not in get_args(InferencePrecision):
        raise ValueError(f"detection is in {either(get_args(InferencePrecision))}, got {precision!r}")


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest this machine has.

    Raises ValueError where the machine does not have it.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device '{name}': expected auto, cpu, cuda, cuda:0, cuda:1 ... or mps") from None
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        gpus = "no CUDA GPU" if count == 0 else f"{count} CUDA GPU{'s' if count > 1 else ''}, numbered from 0"
        raise ValueError(f"device '{device}' was asked for; torch {torch.__version__} sees {gpus} here; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device 'mps' was asked for; torch {torch.__version__} finds no Apple GPU here; use cpu")
    return device


def choose_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the device has instructions for it, so that it is the faster; fp32 elsewhere."""
    import torch

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device has still to do: by way of pinned memory."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda" and tensor.is_cpu:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=kind not in ("mps", "xpu"))  # which may read memory that is free by then


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors on this device may still take; None where the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    described = Path("/proc/meminfo")
    if device.type != "cpu" or not described.is_file():
        return None
    found = re.search(r"MemAvailable: *(\d+) kB", described.read_text(encoding="ascii", errors="replace"))
    limits = [int(found[1]) * 1024] if found else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, by cgroups of version 2 and 1
        file = Path("/sys/fs/cgroup", name)
        if file.is_file() and (limit := file.read_text(encoding="ascii").strip()).isdigit():  # "max" is no limit
            limits.append(int(limit))
    return min(limits, default=None)


def loading_workers(processes: int = 1) -> int:
    """Processes that load images if the user gives no number: one less than the cores of each of so many training
    processes, at most 4."""
    return max(0, min(cores() // processes - 1, 4))


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions that times depend on."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"device": str(device), "name": name, "cores": cores(), "threads": torch.get_num_threads(), **versions}


def _processor() -> str:
    """As the system calls it; `platform` gives no more than the architecture on Linux."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
