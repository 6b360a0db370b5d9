"""What general compressors make of the same bytes: marks to hold a model's bits per byte against."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterable


def marks(documents: Iterable[bytes], row: int, max_bytes: int | None = None) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9, in rows of `row` bytes and (xz) in one piece.

    The documents are laid end to end, as a model's rows are. A compressor of one row knows as much of the
    text as the model does; of the whole set, far more. Containers (18 bytes a row for gzip, 60 or more for
    xz) are part of what these programs write and are counted.
    """
    data = b"".join(documents)[:max_bytes]
    if not data:
        raise ValueError("no bytes to compress")
    rows = [data[i : i + row] for i in range(0, len(data), row)]
    # A dictionary larger than the data changes nothing but the time to set it up.
    small = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(4096, row)}]
    return {
        f"gzip -9, rows of {row}": 8 * sum(len(gzip.compress(r, 9)) for r in rows) / len(data),
        f"xz -9, rows of {row}": 8 * sum(len(lzma.compress(r, filters=small)) for r in rows) / len(data),
        "xz -9, all in one piece": 8 * len(lzma.compress(data, preset=9)) / len(data),
    }
