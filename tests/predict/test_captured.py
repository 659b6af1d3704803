"""The program of CUDA graphs: what is captured once for each shape, what is replayed, and when it is not enough.

There is no GPU here: a graph that runs its program again stands for one.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright import ops
from boxwright.predict.program import Captured
from boxwright.types import Images, Slots

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")


class Brightest:
    """A program with one slot: the mean of the pixels is its score. Its suppression does not end above 200."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def __call__(self, images: Images) -> Slots:
        mean = images.pixels.mean((1, 2, 3))[:, None]
        noted = ops._unsettled.get()
        if noted is not None:
            noted.append((mean > 200).any())
        self.runs.append("whole" if noted is None else "captured")
        label = torch.zeros_like(mean, dtype=torch.int64)
        return Slots(torch.zeros(len(mean), 1, 4), mean / 255, label, label == 0)


def on(device: str) -> Any:
    return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=device)]), eval=lambda: None)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    program = Captured(on("cuda:0"), Brightest())

    class Graph:
        @torch.inference_mode()
        def replay(self) -> None:
            (graph,) = (graph for graph in program.graphs.values() if graph.graph is self)
            with ops.without_waiting() as unsettled:
                slots = program.program(graph.images)
            for column in ("boxes", "scores", "labels", "valid"):
                getattr(graph.slots, column).copy_(getattr(slots, column))
            assert graph.unsettled is not None
            graph.unsettled.copy_(unsettled[0])

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes: dict[str, Any] = {
        "CUDAGraph": Graph, "Stream": lambda: stream, "current_stream": lambda: stream,
        "graph_pool_handle": lambda: (0, 1), "stream": lambda other: nullcontext(),
        "graph": lambda graph, pool: nullcontext(),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return program


def pixels(level: float, images: int = 1) -> Images:
    return Images(torch.full((images, 3, 4, 4), level), torch.tensor([[4, 4]] * images))


def test_a_graph_for_each_shape_sees_every_batch(captured: Captured) -> None:
    first = captured(pixels(51.0))
    assert captured.program.runs.pop() == "captured" and len(captured.graphs) == 1  # type: ignore[attr-defined]
    assert captured(pixels(102.0)).scores.tolist() == [[pytest.approx(0.4)]]
    assert first.scores.tolist() == [[pytest.approx(0.2)]]  # no later batch writes into it
    assert captured(pixels(51.0, images=2)).scores.shape == (2, 1) and len(captured.graphs) == 2
    with torch.autocast("cuda", torch.float16, enabled=False):
        captured(pixels(51.0))
    assert "whole" not in captured.program.runs  # type: ignore[attr-defined]


def test_where_a_suppression_did_not_end_the_program_runs_whole(captured: Captured) -> None:
    captured(pixels(51.0))
    assert captured(pixels(229.5)).scores.tolist() == [[pytest.approx(0.9)]]
    assert captured.program.runs[-2:] == ["captured", "whole"]  # type: ignore[attr-defined]


def test_elsewhere_there_are_no_cuda_graphs() -> None:
    with pytest.raises(ValueError, match="a CUDA graph runs on a CUDA device, the detector is on cpu; use eager"):
        Captured(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_tensors_of_a_batch_are_copied_to_where_the_graph_reads(captured: Captured) -> None:
    given = pixels(51.0)
    captured(given)
    (graph,) = captured.graphs.values()
    columns: list[Tensor] = [graph.images.pixels, graph.images.sizes]
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(columns, (given.pixels, given.sizes), strict=True))
