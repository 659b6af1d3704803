"""The header of a JPEG as nearly all are, from the first bytes of its file; whatever is unusual is left to Pillow.

A data set of a hundred thousand images is opened by their headers, and Pillow takes five times as long for each.
"""

from __future__ import annotations

from boxwright.types import Size

PLAIN_BYTES = 4096
"""So many hold the header of a JPEG without EXIF: tables, and perhaps a colour profile."""

_FRAMES, _SCAN, _QUANTISATION = (0xC0, 0xC1, 0xC2), 0xDA, 0xDB
_SKIPPED = (0xC4, 0xDD, 0xFE)  # Huffman tables, restart interval, comment
_KNOWN = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
"""How segments of applications begin that change nothing here; EXIF may turn the image."""


def plain_size(start: bytes) -> Size | None:
    """The size of a JPEG of 8 bits, grey or of three channels, by the start of its file.

    None if the file has EXIF, has anything else that Pillow would look at, or is no such JPEG up to its pixels.
    """
    if not start.startswith(b"\xff\xd8\xff"):
        return None
    at, size = 2, None
    while at + 4 <= len(start):
        marker, length = start[at + 1], start[at + 2] << 8 | start[at + 3]
        content, end = at + 4, at + 2 + length
        if start[at] != 0xFF or length < 2 or end > len(start):
            return None
        if marker == _SCAN:
            return size
        if marker in _SKIPPED:
            at = end
            continue
        if marker in _FRAMES:
            bits, height, width = start[content], *(start[k] << 8 | start[k + 1] for k in (content + 1, content + 3))
            channels = start[content + 5]
            if size or bits != 8 or channels not in (1, 3) or length != 8 + 3 * channels:
                return None
            size = Size(height, width)
        elif marker == _QUANTISATION:
            if length % 65 != 2 or max(start[content:end:65], default=0) > 0x0F:
                return None
        elif length < 16 or not start.startswith(_KNOWN.get(marker, b"none"), content):
            return None
        at = end
    return None
