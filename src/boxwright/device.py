"""Which device a name means here."""

from __future__ import annotations

from typing import Literal

import torch


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`: "cpu", "cuda", "cuda:1", "mps", or "auto" for the fastest this machine has.

    Raises ValueError where the machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device '{name}': expected auto, cpu, cuda, cuda:0, cuda:1 ... or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{device}' was asked for; torch {torch.__version__} sees {_count()} here; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device 'mps' was asked for; torch {torch.__version__} finds no Apple GPU here; use cpu")
    return device


def choose_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the device has instructions for it, so that it is the faster; fp32 elsewhere."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"


def _count() -> str:
    count = torch.cuda.device_count()
    return "no CUDA GPU" if count == 0 else f"{count} CUDA GPU{'s' if count > 1 else ''}, numbered from 0"
