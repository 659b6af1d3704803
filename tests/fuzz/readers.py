"""All readers that are fuzzed, from the modules that describe them."""

from __future__ import annotations

from fuzz import annotations, images, own, weights
from fuzz.reader import Reader

READERS: list[Reader] = [*annotations.READERS, *images.READERS, *weights.READERS, *own.READERS]
