"""Held-out data: the documents in order, every target exactly once, padded at the very end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from bytelm.data.coded import CodedBuilder
from bytelm.data.coding import TokenCoding
from bytelm.data.documents import Documents, utf8_cut
from bytelm.data.labelled import LabelCoding, LabelledBuilder
from bytelm.data.packing import Batch, BatchBuilder
from bytelm.data.pieces import Piece
from bytelm.data.pipeline import check_lanes
from bytelm.lm import END


def eval_rows(
    source: Documents,
    *,
    rows: int,
    length: int,
    max_bytes: int | None = None,
    lanes: Sequence[int] | None = None,
    coding: TokenCoding | LabelCoding | None = None,
) -> Iterator[Batch]:
    """Batches of [len(lanes), length] over an opened source, in order, each target exactly once.

    The documents' targets are laid end to end over the rows of the global batches, so a document that is
    longer than the rest of its row goes on in the next row, where the model does not see what was before:
    only the symbol before is given. `documents` is the document's number in the source plus 1; a document's
    end of text is its last target. What the last batch lacks is padding (documents 0), so all hosts get the
    same number of batches.

    Args:
      rows: rows of the global batch, over all hosts.
      length: targets of a row.
      max_bytes: take the first `max_bytes` bytes only. The document in which they end is cut there, or up to
        three bytes before so that no UTF-8 character is cut, and has then no end of text. None: all.
      lanes: the rows of each global batch that this host wants, increasing; None: all. Where lengths are
        known only these are read.
      coding: targets are the tokens of the same bytes: `length` counts tokens. The document that `max_bytes`
        cuts is tokenized as far as it goes. Documents that are not UTF-8 are left out (`coding.left_out`).
        Of documents with labels each is whole and in one row, as in training (`bytelm.data.labelled`), they
        are numbered in each row, and all are taken that begin in the first `max_bytes`.
    """
    mine = check_lanes(rows, length, lanes)
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}; it is at least 1, or None for all")
    if isinstance(coding, LabelCoding):
        return _labelled(source, coding, rows, length, max_bytes, mine)
    if coding is not None:
        return _laid(_tokens(source, coding, max_bytes), partial(CodedBuilder, coding), rows, length, mine)
    return _laid(_bytes(source, max_bytes), BatchBuilder, rows, length, mine)


# How many targets a document has, and what adds those from one to another to a builder.
_Part: TypeAlias = tuple[int, Callable[[Any, int, int], None]]


def _laid(
    parts: Iterable[_Part], make: Callable[[], Any], rows: int, length: int, lanes: tuple[int, ...]
) -> Iterator[Batch]:
    """Targets end to end over rows; `make` makes the builder of a batch."""
    mine = frozenset(lanes)
    builder, place = make(), 0  # place: targets laid in the current global batch
    for stop, add in parts:
        start = 0
        while start < stop:
            row, column = divmod(place, length)
            end = min(stop, start + length - column)
            if row in mine:
                add(builder, start, end)
            place, start = place + end - start, end
            if place == rows * length:
                yield builder.build(len(lanes), length)
                builder, place = make(), 0
    if place:
        builder.pad(len(lanes) * length - builder.size)
        yield builder.build(len(lanes), length)


def _bytes(source: Documents, max_bytes: int | None) -> Iterator[_Part]:
    def add(i: int, size: int, document: _Readable, builder: BatchBuilder, start: int, end: int) -> None:
        low = max(start - 1, 0)  # with the byte before, the first input
        data = document.read(i, low, min(end, size))
        builder.add(data[start - low :], data[0] if start else END, end > size, i + 1)

    for i, size, stop, document in _documents(source, max_bytes):
        yield stop, partial(add, i, size, document)


def _tokens(source: Documents, coding: TokenCoding, max_bytes: int | None) -> Iterator[_Part]:
    """How many a document has only its encoding tells, so all are read."""

    def add(i: int, symbols: np.ndarray, builder: CodedBuilder, start: int, end: int) -> None:
        builder.add(symbols[start : end + 1], i + 1)

    for i, size, stop, document in _documents(source, max_bytes):
        ids = coding.held_out(source, i, document.read(i, 0, min(stop, size)))
        if ids is not None:
            symbols = np.concatenate([[coding.end], ids, [coding.end] if stop > size else []])
            yield len(symbols) - 1, partial(add, i, symbols.astype(coding.dtype))


def _labelled(
    source: Documents,
    coding: LabelCoding,
    rows: int,
    length: int,
    max_bytes: int | None,
    lanes: tuple[int, ...],
) -> Iterator[Batch]:
    mine, builder = frozenset(lanes), LabelledBuilder(coding)
    row, left, identity = 0, length, 0  # the row of the global batch, what it has room for, its documents

    def pad() -> None:
        if row in mine:
            builder.pad(left)

    for i, *_ in _documents(source, max_bytes):
        symbols = coding.symbols(Piece(source, i, 0, None))
        if symbols is None:
            continue
        if identity and len(symbols) - 1 > left:
            pad()
            row, left, identity = row + 1, length, 0
            if row == rows:
                yield builder.build(len(lanes), length)
                builder, row = LabelledBuilder(coding), 0
        symbols, identity = symbols[: left + 1], identity + 1
        if row in mine:
            builder.add(symbols, identity, coding.number(Piece(source, i, 0, None)))
        left -= len(symbols) - 1
    if identity:
        pad()
        builder.pad(len(lanes) * length - builder.size)
        yield builder.build(len(lanes), length)


def _documents(source: Documents, max_bytes: int | None) -> Iterator[tuple[int, int, int, _Readable]]:
    """(document, its bytes, its targets to take, where to read it) until `max_bytes`.

    An empty document has no targets.
    """
    for i in range(len(source)):
        # Now and once, where every `read` would fetch the whole document.
        whole = None if source.sliceable and source.lengths is not None else _Whole(source[i])
        size = len(whole.data) if whole else source.lengths.item(i)  # type: ignore[union-attr]
        stop, document = size + 1, whole or source
        if max_bytes is not None:
            if size > max_bytes:
                stop = utf8_cut(partial(document.read, i), max_bytes, size)
            max_bytes = max(max_bytes - size, 0)
        if size and stop:
            yield i, size, stop, document
        if max_bytes == 0:
            return


class _Readable(Protocol):
    def read(self, i: int, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class _Whole:
    """A document that was fetched, in the place of its source."""

    data: bytes

    def read(self, i: int, start: int, stop: int) -> bytes:
        return self.data[start:stop]
