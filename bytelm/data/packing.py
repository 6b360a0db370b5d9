"""Lanes: from a sequence of pieces to full rows of symbols.

The global batch has `rows` lanes, numbered from 0. Lane r takes elements r, r + rows, r + 2 rows, ... of the
sequence and lays their targets end to end; its rows are that line cut every `length` targets, so what does
not fit in a row goes on in the lane's next row. Lanes know nothing of each other: which host holds which
lane changes nothing in the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import grain
import numpy as np

from bytelm.data.coded import EMPTY_LIMIT, CodedBuilder, CodedLane
from bytelm.data.coding import Coding
from bytelm.data.labelled import LabelCoding, LabelledBuilder, LabelledLane
from bytelm.data.pieces import Piece
from bytelm.lm import END

Batch: TypeAlias = dict[str, np.ndarray]
"""`inputs`, `targets`: uint16 [b, T], symbols. `documents`: int32 [b, T], runs of one id within a row are one
contiguous piece of a document; 0 is padding (held-out data only), where the symbols mean nothing. Of tokens
(int32 where the vocabulary is large) there are also `bytes`, uint16, that a target stands for, and `ends`,
bool: it is an end of text. Of documents with labels there is also `labels`, see `LabelledBuilder`."""

BLOCK = 2**16  # bytes read at once of a long document


class BatchBuilder:
    """Chunks of documents laid end to end, row after row, then made into arrays in one go.

    Python does a few operations a chunk and none a byte; numpy does the rest once a batch.
    """

    def __init__(self) -> None:
        self.size = 0  # targets so far
        self._data: list[bytes] = []
        self._sizes: list[int] = []
        self._firsts: list[int] = []
        self._ids: list[int] = []
        self._ends: list[int] = []

    def add(self, data: bytes, first: int, ends: bool, identity: int) -> None:
        """Targets `data`, then END if `ends`; `first` is the symbol before the first of them."""
        self._data.append(data)
        size = len(data)
        if ends:
            self._data.append(b"\0")  # END is no byte: its place is kept, and filled in `build`
            self._ends.append(self.size + size)
            size += 1
        self._firsts.append(first)
        self._sizes.append(size)
        self._ids.append(identity)
        self.size += size

    def pad(self, size: int) -> None:
        """`size` targets that are none."""
        if size:
            self.add(bytes(size), 0, ends=False, identity=0)

    def build(self, rows: int, length: int) -> Batch:
        """The batch of [rows, length]; exactly so many targets must have been added."""
        assert self.size == rows * length, (self.size, rows, length)
        targets = np.frombuffer(b"".join(self._data), np.uint8).astype(np.uint16)
        targets[self._ends] = END
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        sizes = np.array(self._sizes)
        inputs[np.cumsum(sizes) - sizes] = self._firsts
        documents = np.repeat(np.array(self._ids, np.int32), sizes)
        shape = (rows, length)
        return {
            "inputs": inputs.reshape(shape),
            "targets": targets.reshape(shape),
            "documents": documents.reshape(shape),
        }


class Lane:
    """One lane's place in the sequence, and the bytes it holds of the piece it is in.

    The place is `element`, the number of the lane's elements that are finished, and `offset`, the targets
    taken of the next. Everything else is a cache that any lane can rebuild from these two.
    """

    def __init__(self, sequence: grain.MapDataset, lane: int, rows: int, element: int = 0, offset: int = 0):
        self.lane, self.element, self.offset = lane, element, offset
        self._sequence, self._rows = sequence, rows
        self._piece: Piece | None = None
        self._stop = 0  # the piece's last target + 1
        self._length = 0  # the document's bytes
        self._data, self._at = b"", 0  # bytes of the document from byte _at on

    def fill(self, builder: BatchBuilder, length: int) -> None:
        """Adds the lane's next `length` targets, as one row whose runs are numbered 1, 2, ..."""
        identity = 0
        while length:
            if self._piece is None:
                self._open()
            assert self._piece is not None
            start = self._piece.start + self.offset
            stop = min(start + length, self._stop)
            low, high = max(start - 1, 0), min(stop, self._length)  # with the byte before the first target
            if low < self._at or high > self._at + len(self._data):
                self._read(low, high)
            identity += 1
            first = self._data[low - self._at] if start else END
            builder.add(self._data[start - self._at : high - self._at], first, stop > self._length, identity)
            length -= stop - start
            if stop == self._stop:
                self._piece = None
                self.element, self.offset = self.element + 1, 0
            else:
                self.offset += stop - start

    def _open(self) -> None:
        """Goes to the next element that holds a target: an empty cut and an empty document hold none."""
        empty = 0
        while True:
            piece = self._sequence[self.element * self._rows + self.lane]
            if piece is not None:
                documents, self._data, self._at = piece.documents, b"", 0
                if not documents.sliceable or documents.lengths is None:
                    # Kept as long as the lane is in it: `read` would fetch it whole for every block.
                    self._data = documents[piece.document]
                lengths = documents.lengths
                self._length = len(self._data) if lengths is None else lengths.item(piece.document)
                if self._length:
                    break
                empty += 1
                if empty == EMPTY_LIMIT:
                    raise ValueError(
                        f"{documents.name}: {empty:,} empty documents in a row; is it the right field?"
                    )
            self.element, self.offset = self.element + 1, 0
        self._piece = piece
        self._stop = self._length + 1 if piece.stop is None else piece.stop
        if piece.start + self.offset >= self._stop:
            raise ValueError(
                f"{documents.name}: lane {self.lane} should go on at target {self.offset} of a piece of "
                f"{self._stop - piece.start}; the data are not those that the state was saved with"
            )

    def _read(self, low: int, high: int) -> None:
        """Holds bytes [low, high) of the document, and what follows of the piece up to a block."""
        assert self._piece is not None
        high = max(high, min(low + BLOCK, self._stop, self._length))
        self._data, self._at = self._piece.documents.read(self._piece.document, low, high), low


class PackIterator(grain.DatasetIterator):
    """Batches of some lanes. The state, int64 [b, 3], has a row (lane, element, offset) for each of them."""

    def __init__(
        self,
        sequence: grain.MapDataset,
        lanes: Sequence[int],
        rows: int,
        length: int,
        coding: Coding | None,
    ):
        super().__init__()
        self._length = length
        self._builder: Any
        make: Any
        if coding is None:
            self._builder, make = BatchBuilder, Lane
        elif isinstance(coding, LabelCoding):
            self._builder, make = partial(LabelledBuilder, coding), partial(LabelledLane, coding)
        else:
            self._builder, make = partial(CodedBuilder, coding), partial(CodedLane, coding)
        self._lane = lambda lane, *place: make(sequence, lane, rows, *place)
        self._lanes = [self._lane(lane) for lane in lanes]
        self._places = self._now()

    def __next__(self) -> Batch:
        builder = self._builder()
        try:
            for lane in self._lanes:
                lane.fill(builder, self._length)
        except BaseException:
            # Some lanes have moved: back to the end of the last batch, so that one can try again.
            self._go(self._places)
            raise
        self._places = self._now()
        return builder.build(len(self._lanes), self._length)

    def get_state(self) -> dict[str, np.ndarray]:
        return {"places": self._places.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._go(np.asarray(state["places"], np.int64))
        self._places = self._now()

    def _now(self) -> np.ndarray:
        return np.array([(lane.lane, lane.element, lane.offset) for lane in self._lanes], np.int64)

    def _go(self, places: np.ndarray) -> None:
        self._lanes = [self._lane(*place) for place in places.tolist()]


class PackDataset(grain.IterDataset):
    """`PackIterator` in the form that grain's prefetch takes."""

    def __init__(
        self,
        sequence: grain.MapDataset,
        lanes: Sequence[int],
        rows: int,
        length: int,
        coding: Coding | None = None,
    ):
        super().__init__()
        self._args = (sequence, lanes, rows, length, coding)

    def __iter__(self) -> PackIterator:
        return PackIterator(*self._args)
