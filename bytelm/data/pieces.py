"""The endless, shuffled, randomly accessible sequence of pieces that a training stream consumes.

A document of bytes b1..bn is read as the symbols END b1 .. bn END: its n + 1 *targets* are all but the
first, numbered from 0, and target t is predicted from the symbols before it. A *piece* is a range of
targets of one document. Every epoch holds every target exactly once.

Everything here is a pure function of the index, so a place in the sequence is one integer: grain passes
`index = epoch * length + i` down through shuffle and repeat, and the epoch is read off it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np

from bytelm.data.documents import Documents
from bytelm.data.sources import Mixture

TABLE_LIMIT = 2**20  # elements of an epoch up to which its order is kept as a table
MIX_WINDOW = 2**16  # elements among which a mixture is shuffled
SAMPLE = 256  # documents read to estimate a mean length
_MASK = 2**64 - 1


class Piece(NamedTuple):
    """Targets [start, stop) of a document; `stop` is None where the document's end is not known.

    With `seed` and `epoch` what is random about it can be drawn.
    """

    documents: Documents
    document: int
    start: int
    stop: int | None
    seed: int = 0
    epoch: int = 0


def piece_sequence(source: Documents, *, piece: int | None, seed: int) -> grain.MapDataset:
    """All epochs of all pieces, shuffled anew each epoch; a `Mixture` is mixed by bytes.

    Elements are `Piece`, or None for a cut that came out empty. Args:
      piece: targets of a piece, or None for whole documents. A document of more targets is cut at
        multiples of `piece` less a phase, which depends on seed, epoch and document, so that each epoch
        cuts elsewhere. Documents whose length is unknown stay whole.
      seed: any int >= 0.
    """
    if piece is not None and piece < 1:
        raise ValueError(
            f"piece is {piece}; it is a number of targets, at least 1, or None for whole documents"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    if not isinstance(source, Mixture):
        return _shuffled(Pieces(source, piece, seed), seed).repeat()
    parts, shares = [], []
    for i, (part, weight) in enumerate(zip(source.parts, source.weights, strict=True)):
        own = hash64(seed, i)  # two parts of equal lengths must not be in step
        pieces = Pieces(part, piece, own)
        parts.append(_shuffled(pieces, own).repeat())
        shares.append(weight / (_mean_targets(part) * len(part) / len(pieces)))  # weights are bytes: see Mix
    mixed = grain.MapDataset.mix(parts, shares)
    # The mixture is periodic: lanes that take every B-th element would each be stuck with some parts.
    window_seed = hash64(seed, len(parts)) % 2**31
    return grain.experimental.WindowShuffleMapDataset(mixed, window_size=MIX_WINDOW, seed=window_seed)


class Pieces(grain.MapDataset):
    """The pieces of one source in order, its `len` an epoch's; index // len is the epoch.

    A document of n + 1 <= piece targets is one element. A longer one has as many elements as its cuts can
    need at any phase, of which the last may be empty (None).
    """

    def __init__(self, documents: Documents, piece: int | None, seed: int):
        super().__init__()
        self._documents, self._piece, self._seed = documents, piece, seed
        self._targets = None if documents.lengths is None else documents.lengths + 1
        self._ends: np.ndarray | None = None  # elements of the documents up to and with each; None: one each
        if piece is not None and self._targets is not None and (self._targets > piece).any():
            slots = np.where(self._targets > piece, (self._targets + piece - 2) // piece + 1, 1)
            self._ends = np.cumsum(slots)
        self._len = len(documents) if self._ends is None else int(self._ends[-1])

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        epoch, element = divmod(index, self._len)
        if self._targets is None:
            return self._of(epoch, element, 0, None)
        if self._ends is None:
            return self._of(epoch, element, 0, self._targets.item(element))
        document = int(self._ends.searchsorted(element, side="right"))
        targets = self._targets.item(document)
        assert self._piece is not None  # only pieces make elements and documents differ
        if targets <= self._piece:
            return self._of(epoch, document, 0, targets)
        k = element - (self._ends.item(document - 1) if document else 0)
        cut = k * self._piece - hash64(self._seed, epoch, document) % self._piece
        start, stop = max(cut, 0), min(cut + self._piece, targets)
        return self._of(epoch, document, start, stop) if start < stop else None

    def _of(self, epoch: int, document: int, start: int, stop: int | None) -> Piece:
        return Piece(self._documents, document, start, stop, self._seed, epoch)


class TableShuffle(grain.MapDataset):
    """A new order every epoch, from a sorted table of hashes.

    grain's own `shuffle` needs no table but takes milliseconds an element in epochs of a few elements.
    """

    def __init__(self, parent: grain.MapDataset, seed: int):
        super().__init__(parent)
        # Lanes are never quite in the same epoch, and a mixture's window holds many of a small part.
        epochs = 4 + 2 * MIX_WINDOW // len(parent)
        self._order = lru_cache(maxsize=epochs)(lambda epoch: hash_order(seed, epoch, len(parent)))

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        epoch, i = divmod(index, len(self._parent))
        return self._parent[epoch * len(self._parent) + self._order(epoch).item(i)]


def _shuffled(pieces: Pieces, seed: int) -> grain.MapDataset:
    if len(pieces) <= TABLE_LIMIT:
        return TableShuffle(pieces, seed)
    # grain adds the epoch to the seed, so neighbouring seeds would be one run shifted by an epoch.
    return pieces.shuffle(hash64(seed) % 2**32)


def _mean_targets(documents: Documents) -> float:
    """Mean targets of a document, from some of them where the lengths are not known."""
    if documents.lengths is not None:
        return float(documents.lengths.mean()) + 1
    sample = np.unique(np.linspace(0, len(documents) - 1, SAMPLE).astype(int))
    return float(np.mean([len(documents[int(i)]) + 1 for i in sample]))


# ---- hashes: the same on every machine and with every version of numpy, unlike its generators ---------


def hash64(*values: int) -> int:
    """A 64-bit hash of non-negative integers, by the finaliser of splitmix64."""
    x = 0
    for value in values:
        x = (x + value + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


def hash_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A permutation of 0..length-1, int64: the order of the hashes of (seed, epoch, i)."""
    x = np.arange(length, dtype=np.uint64) + np.uint64((hash64(seed, epoch) + 0x9E3779B97F4A7C15) & _MASK)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
