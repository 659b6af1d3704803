"""Counts what would make the host wait for an accelerator, without one.

Tensors on the device "meta" have no values, so whatever needs one cannot be computed: the mode notes it, and goes on
with a made-up answer. Operators of boxwright run as on CUDA, but for pooling: its kernels are torchvision's, and
`tests/layers/test_regions_static.py` counts in them.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import boxwright

PACKAGE = Path(boxwright.__file__).parent
ON_CUDA = torch._C.DispatchKey.CUDA  # pyright: ignore[reportAttributeAccessIssue]
SHAPES_BY_VALUE = ("nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "repeat_interleave")


class HostWaits(TorchDispatchMode):
    """Within, `places` counts the lines of boxwright that wait, by file and function.

    pool  regions by the kernels that CUDA has: with values, so on the CPU, and not on "meta"
    """

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.places: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.places.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if func.namespace == "boxwright" and (self.pool or name == "nms_mask"):
            with self:  # what it calls is seen too
                return func._op_dk(ON_CUDA, *args, **kwargs)
        given = next((x for x in args if isinstance(x, Tensor)), None)
        if given is not None and (given.is_meta or self.pool):
            if name in ("_local_scalar_dense", "equal", "is_nonzero"):
                self.note(name)
                return 0 if given.is_meta else func(*args, **kwargs)
            if name == "_to_copy" and given.is_meta and kwargs.get("device") == torch.device("cpu"):
                self.note("a copy between devices")
                return torch.zeros(given.shape, dtype=kwargs.get("dtype") or given.dtype)
            if name in SHAPES_BY_VALUE and (name != "repeat_interleave" or kwargs.get("output_size") is None):
                self.note(name)
                if given.is_meta and name == "nonzero":
                    return torch.empty(7, given.ndim, dtype=torch.int64, device="meta")
            indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
            if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.note("a mask as an index")
        result = func(*args, **kwargs)
        moved = isinstance(result, Tensor) and given is not None and given.device != result.device
        if moved and name in ("_to_copy", "copy_") and not kwargs.get("non_blocking"):
            self.note("a copy between devices")
        return result

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
        frame = frames[-1] if frames else traceback.extract_stack()[0]
        self.places[f"{Path(frame.filename).name}:{frame.name} {what}: {frame.line}"] += 1
