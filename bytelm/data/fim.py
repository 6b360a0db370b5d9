"""Fill-in-the-middle: a piece of a document as prefix, suffix and middle, in one of two orders.

Bavarian et al. (arXiv 2207.14255), with the sentinels as StarCoder lays them (arXiv 2305.06161):

  PSM  <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle <end of text>
  SPM  <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle <end of text>

Prefix, middle and suffix are cut at two places drawn evenly from all between characters, ends included. What
is cut is a piece (`bytelm.data.pieces`): a whole document, unless the stream cuts documents. A rearranged
piece stands as a document of its own: END before it, and END after it, also where its document goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bytelm.data.pieces import Piece, hash64

PREFIX, SUFFIX, MIDDLE = range(3)  # in a layout, in place of bytes


@dataclass(frozen=True)
class Fim:
    """How much of the training data is rearranged. Held-out data are not."""

    rate: float = 0.0
    """Share of the pieces that are rearranged; 0: none."""
    spm: float = 0.5
    """Share of these in the order suffix, prefix, middle; the others are prefix, suffix, middle."""

    def __post_init__(self) -> None:
        for name in ("rate", "spm"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"data.fim.{name} is a share, in [0, 1], not {getattr(self, name)}")


class Cut(NamedTuple):
    """Prefix [0, first), middle [first, second), suffix [second, ...) of a text, and their order."""

    first: int
    second: int
    spm: bool


def cut_of(fim: Fim, piece: Piece, data: bytes) -> Cut | None:
    """Where the piece, which reads `data`, is cut; None where it is left as it is.

    A function of the stream's seed, the epoch, the document and the place in it.
    """
    place = (piece.seed, piece.epoch, piece.document, piece.start)
    rearranged, order, one, two = (hash64(*place, k) / 2.0**64 for k in range(4))
    if not data or rearranged >= fim.rate:
        return None
    places = characters(data)
    a, b = sorted((places.item(int(one * len(places))), places.item(int(two * len(places)))))
    return Cut(a, b, order < fim.spm)


def characters(data: bytes) -> np.ndarray:
    """The places between characters, the ends among them: those before no byte that continues one."""
    inside = (np.frombuffer(data, np.uint8) & 0xC0) == 0x80
    if data:
        inside = np.append(inside, False)
        inside[0] = False
        return np.flatnonzero(~inside)
    return np.zeros(1, np.int64)


def layout(data: bytes, cut: Cut) -> list[int | bytes]:
    """The rearranged text: PREFIX, SUFFIX or MIDDLE where a sentinel stands, and texts.

    In SPM prefix and middle are one text, which a tokenizer reads jointly; in PSM each is one.
    """
    prefix, middle, suffix = data[: cut.first], data[cut.first : cut.second], data[cut.second :]
    if cut.spm:
        return [PREFIX, SUFFIX, suffix, MIDDLE, prefix + middle]
    return [PREFIX, prefix, SUFFIX, suffix, MIDDLE, middle]
