"""Lanes and batches of symbols that a `Coding` makes, as `packing` has them of bytes."""

from __future__ import annotations

import grain
import numpy as np

from bytelm.data.coding import Coding
from bytelm.data.pieces import Piece

EMPTY_LIMIT = 10_000  # documents without a target, in a row, after which a lane gives up
AHEAD = 8  # pieces of a lane that are prepared together


class CodedBuilder:
    """Runs of symbols laid end to end, row after row, then made into arrays in one go."""

    def __init__(self, coding: Coding):
        self.size = 0  # targets so far
        self._coding = coding
        self._runs: list[np.ndarray] = []
        self._ids: list[int] = []

    def add(self, symbols: np.ndarray, identity: int) -> None:
        """Targets ``symbols[1:]``, each with the symbol before it as its input."""
        self._runs.append(symbols)
        self._ids.append(identity)
        self.size += len(symbols) - 1

    def pad(self, size: int) -> None:
        """`size` targets that are none."""
        if size:
            self.add(np.zeros(size + 1, self._coding.dtype), 0)

    def build(self, rows: int, length: int) -> dict[str, np.ndarray]:
        """The batch of [rows, length], see `packing.Batch`; exactly so many targets must have been added."""
        assert self.size == rows * length, (self.size, rows, length)
        sizes = [len(run) - 1 for run in self._runs]
        targets = np.concatenate([run[1:] for run in self._runs])
        documents = np.repeat(np.array(self._ids, np.int32), sizes)
        batch = {
            "inputs": np.concatenate([run[:-1] for run in self._runs]),
            "targets": targets,
            "documents": documents,
        }
        if self._coding.sizes_V is not None:
            batch["bytes"] = np.where(documents > 0, self._coding.sizes_V[targets], 0).astype(np.uint16)
            batch["ends"] = (documents > 0) & (targets == self._coding.end)
        return {name: x.reshape(rows, length) for name, x in batch.items()}


class CodedLane:
    """One lane's place in the sequence, as `packing.Lane`; `offset` counts targets of the coded piece."""

    def __init__(
        self,
        coding: Coding,
        sequence: grain.MapDataset,
        lane: int,
        rows: int,
        element: int = 0,
        offset: int = 0,
    ):
        self.lane, self.element, self.offset = lane, element, offset
        self._coding, self._sequence, self._rows = coding, sequence, rows
        self._symbols: np.ndarray | None = None
        self._expected = element  # elements before this were told to the coding

    def fill(self, builder: CodedBuilder, length: int) -> None:
        """Adds the lane's next `length` targets, as one row whose runs are numbered 1, 2, ..."""
        identity = 0
        while length:
            if self._symbols is None:
                self._symbols = self._open()
            stop = min(self.offset + length, len(self._symbols) - 1)
            identity += 1
            builder.add(self._symbols[self.offset : stop + 1], identity)
            length -= stop - self.offset
            if stop == len(self._symbols) - 1:
                self._symbols = None
                self.element, self.offset = self.element + 1, 0
            else:
                self.offset = stop

    def _piece(self, element: int) -> Piece | None:
        return self._sequence[element * self._rows + self.lane]

    def _open(self) -> np.ndarray:
        """The symbols of the next element that holds a target."""
        empty = 0
        while True:
            if self.element >= self._expected:
                pieces = [self._piece(self.element + i) for i in range(AHEAD)]
                self._coding.expect([piece for piece in pieces if piece is not None])
                self._expected = self.element + AHEAD
            piece = self._piece(self.element)
            if piece is not None:
                symbols = self._coding.symbols(piece)
                if symbols is not None:
                    break
                empty += 1
                if empty == EMPTY_LIMIT:
                    raise ValueError(
                        f"{piece.documents.name}: {empty:,} documents in a row hold nothing to train on: "
                        "they are empty, or not the UTF-8 that a tokenizer reads; is it the right field?"
                    )
            self.element, self.offset = self.element + 1, 0
        if self.offset >= len(symbols) - 1:
            raise ValueError(
                f"{piece.documents.name}: lane {self.lane} should go on at target {self.offset} of a piece "
                f"of {len(symbols) - 1}; the data are not those that the state was saved with"
            )
        return symbols
