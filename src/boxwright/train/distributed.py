"""One process among those that `torchrun` started, or the only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from boxwright.device import choose_device

_TIMEOUT = timedelta(hours=4)  # the others wait while the first evaluates


@dataclass(frozen=True)
class Process:
    """Process `rank` of `world`, on its own device; `neighbours` are the processes on this machine, itself included."""

    rank: int
    world: int
    device: torch.device
    neighbours: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and prints."""
        return self.rank == 0


@contextmanager
def join(device: str = "auto") -> Iterator[Process]:
    """Join the process group of torchrun (gloo on the CPU, nccl on CUDA), and leave it at the end.

    Without torchrun this process is the only one. "auto" and "cuda" mean the GPU of its local rank.
    """
    chosen = choose_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Process(0, 1, chosen)
        return
    if chosen.type == "mps":
        raise ValueError("several processes train on cpu or cuda, not on mps; run boxwright without torchrun")
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), chosen, int(os.environ["LOCAL_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()


def share_gradients(model: nn.Module) -> nn.Module:
    """The model with gradients averaged over all ranks; buffers are sent only where a batch norm changes them."""
    shared = nn.parallel.DistributedDataParallel
    known = signature(shared.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch 2.15 renamed it
    options: dict[str, Any] = {name: any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())}
    return shared(model, **options)
