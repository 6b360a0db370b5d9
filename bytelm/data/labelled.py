"""Documents with labels, for a classifier: whole ones, several in a row where they fit.

A lane's row takes the lane's next documents for as long as all of the next one fits; what is left over is
padding. So a document is never divided among rows. One that is longer than a row has a row to itself and is
cut at the row's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bytelm.data.coded import CodedBuilder, CodedLane
from bytelm.data.coding import ByteCoding, TokenCoding
from bytelm.data.documents import Documents
from bytelm.data.pieces import Piece
from bytelm.data.readers import Label


def labels_of(documents: Documents) -> tuple[Label, ...]:
    """The labels of documents that have them. Raises ValueError for others."""
    labels = getattr(documents, "labels", None)
    if labels is None:
        raise ValueError(f"{documents.name}: these documents have no labels; set data.source.label")
    return labels


def known_labels(documents: Documents) -> tuple[str | int, ...]:
    """The different labels, numbers before strings. Raises ValueError for fewer than two."""
    found = {label.value for label in labels_of(documents)}
    if len(found) < 2:
        raise ValueError(f"{documents.name}: one label only, {found.pop()!r}; there is nothing to tell apart")
    return tuple(sorted(found, key=lambda value: (isinstance(value, str), value)))


class LabelCoding:
    """Whole documents as a coding of bytes or tokens reads them, and their labels as numbers.

    The symbols of a document are the one before it, its own, and end of text: their inputs hold all of it.
    """

    def __init__(self, inner: ByteCoding | TokenCoding, labels: Sequence[str | int]):
        self.inner, self.labels = inner, tuple(labels)
        self._number = {label: i for i, label in enumerate(self.labels)}
        self.dtype, self.sizes_V, self.end = inner.dtype, inner.sizes_V, inner.end
        self.meaning: Mapping[str, int] = {**inner.meaning, "labels": len(self.labels)}

    def check(self, documents: Documents) -> None:
        """Raises ValueError, naming file and line, for a label that is not among the known ones."""
        for label in labels_of(documents):
            if label.value not in self._number:
                known = ", ".join(map(repr, self.labels))
                raise ValueError(
                    f"{label.where}: the label {label.value!r} is not one to be told apart: {known}"
                )

    def symbols(self, piece: Piece) -> np.ndarray | None:
        return self.inner.symbols(piece)

    def expect(self, pieces: Sequence[Piece]) -> None:
        self.inner.expect(pieces)

    def number(self, piece: Piece) -> int:
        """The number of a document's label."""
        return self._number[labels_of(piece.documents)[piece.document].value]


class LabelledBuilder(CodedBuilder):
    """As `CodedBuilder`, with `labels`: int32, a label's number at its document's last target, else -1."""

    def __init__(self, coding: LabelCoding):
        super().__init__(coding)
        self._labels: list[int] = []

    def add(self, symbols: np.ndarray, identity: int, label: int = -1) -> None:
        super().add(symbols, identity)
        self._labels.append(label)

    def build(self, rows: int, length: int) -> dict[str, np.ndarray]:
        labels = np.full(rows * length, -1, np.int32)
        labels[np.cumsum([len(run) - 1 for run in self._runs]) - 1] = self._labels
        return {**super().build(rows, length), "labels": labels.reshape(rows, length)}


class LabelledLane(CodedLane):
    """As `CodedLane`, of whole documents; `offset` is always 0."""

    def fill(self, builder: LabelledBuilder, length: int) -> None:  # type: ignore[override]
        """Adds the lane's next row, whose documents are numbered 1, 2, ..."""
        coding, identity, left = self._coding, 0, length
        assert isinstance(coding, LabelCoding)
        while left:
            if self._symbols is None:
                self._symbols = self._open()
            if identity and len(self._symbols) - 1 > left:
                return builder.pad(left)  # it begins the next row
            identity += 1
            piece = self._piece(self.element)
            assert piece is not None  # it was opened
            symbols = self._symbols[: left + 1]
            builder.add(symbols, identity, coding.number(piece))
            left -= len(symbols) - 1
            self._symbols, self.element = None, self.element + 1
