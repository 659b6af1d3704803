"""The inference form of every detector on a CPU against the same detector without: the same boxes, and the time.

    python benchmarks/inference_form.py --sizes 192x256 256x320 320x224 --batches 1 4

Weights are random, scaled to outputs of a given deviation, so that many boxes come out. Each round runs both once, in
alternating order; a ratio is the CPU time of the inference form over that without (below 1: it is faster), printed as
its median and quartiles. Ends with an error where detections differ by more than 1e-2 pixels or 1e-4 in score.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.detectors import DETECTORS, Detector
from boxwright.predict.program import Eager
from boxwright.types import Images
from boxwright.zoo.proof import compare, photographs
from record import milliseconds, ratio

BOX, SCORE = 1e-2, 1e-4


def make_images(batch: int, height: int, width: int, proposes: bool) -> Images:
    """Photographs, stretched to the size, with random proposals for a detector that takes them."""
    photos = [torch.tensor(photo).permute(2, 0, 1)[None].float() for photo in photographs().values()]
    chosen = [photos[index % len(photos)] for index in range(batch)]
    pixels = torch.cat([nn.functional.interpolate(photo, size=(height, width), mode="bilinear") for photo in chosen])
    corners = torch.rand(batch, 300, 2, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([width, height])
    proposals = corners.sort(dim=2).values.flatten(2)[:, : 300 if proposes else 0]
    return Images(pixels, torch.tensor([[height, width]] * batch), proposals)


def scale(detector: Detector, images: Images) -> None:
    """Scales every layer that has a bias to outputs of mean 0 and deviation 1, logits of 2, deltas of .2.

    A random network amplifies rounding otherwise.
    """
    scaled: set[nn.Module] = set()

    def rescale(deviation: float, layer: Any, _: object, output: Tensor) -> Tensor | None:
        if layer in scaled:
            return None
        scaled.add(layer)
        mean, factor = output.mean(), deviation / output.std()
        layer.weight.mul_(factor)
        layer.bias.sub_(mean).mul_(factor)
        return (output - mean) * factor

    with torch.no_grad(), ExitStack() as stack:
        for name, layer in detector.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                deviation = {"logits": 2.0, "deltas": 0.2}.get(name.rpartition(".")[2], 1.0)
                stack.callback(layer.register_forward_hook(partial(rescale, deviation)).remove)
        Eager(detector, packed=False)(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--sizes", nargs="+", default=["192x256"], help="height x width")
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, CPU time")
    for name in options.detectors:
        torch.manual_seed(0)
        detector = DETECTORS[name]().build(20).eval()
        proposes = detector.propose is not None
        scale(detector, make_images(2, 192, 256, proposes))
        plain, packed = Eager(detector, packed=False), Eager(detector)
        for size in options.sizes:
            height, width = map(int, size.split("x"))
            for batch in options.batches:
                images = make_images(batch, height, width, proposes)
                pairs = zip(plain(images).trim(), packed(images).trim(), strict=True)
                found = [compare(name, batch, *pair) for pair in pairs]
                times: dict[Eager, list[float]] = {plain: [], packed: []}
                for index in range(options.rounds):
                    for program in (plain, packed) if index % 2 else (packed, plain):
                        started = time.process_time()
                        program(images)
                        times[program].append(time.process_time() - started)
                box, score = max(f.box for f in found), max(f.score for f in found)
                count = sum(f.original for f in found)
                print(
                    f"{name:15} {size} batch {batch}: {count:4} detections, within {box:.1e} px and {score:.1e}; "
                    f"{milliseconds(times[packed])}, ratio {ratio(times[packed], times[plain])}",
                    flush=True,
                )
                lost = any(f.unmatched or f.original != f.converted for f in found)
                if lost or box > BOX or score > SCORE:
                    raise SystemExit(f"{name}: detections of the inference form differ; expected the same")


if __name__ == "__main__":
    main()
