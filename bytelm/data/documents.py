"""Opened sources: a numbered list of documents, each a string of bytes.

A source (`Stdlib`, `Files`, `Tfds`, `Mix`) is a config; `source.open("train")` gives its `Documents`.
`Table` is the implementation that all sources but TFDS share: every document is a slice of one packed
buffer in memory, or a slice of a file that is read when it is asked for.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from bytelm.data.readers import Label

Split: TypeAlias = Literal["train", "valid", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

log = logging.getLogger(__name__)


class Documents(Protocol):
    """One split of a source, opened: `len(documents)` documents, addressed by 0 <= i < len."""

    @property
    def name(self) -> str:
        """What messages call it, for instance `Files(books) train`."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """What was left out at opening: reason -> how many."""

    @property
    def lengths(self) -> np.ndarray | None:
        """int64 [len]: bytes of every document, or None where only reading would tell."""

    @property
    def sliceable(self) -> bool:
        """Whether `read` costs only the bytes it returns. If not, it fetches the whole document."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> bytes: ...

    def read(self, i: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of document i, exactly stop - start of them."""


@dataclass(frozen=True, eq=False)
class Table:
    """Documents that are slices: document i is `lengths[i]` bytes from `starts[i]` on of a container.

    The container is `memory` where `where[i]` is -1, else the file `files[where[i]]`, opened for every
    read, so that any number of files may be held. All arrays are [N], int64.
    """

    name: str
    memory: bytearray
    files: tuple[str, ...]
    where: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    skipped: Mapping[str, int]
    sliceable: bool = True
    labels: tuple[Label, ...] | None = None  # of each document, where the source gives them

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> bytes:
        return self.read(i, 0, self.lengths.item(i))

    def read(self, i: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of document i.

        Raises IndexError outside the document, OSError if a file vanished or shrank since opening.
        """
        if not 0 <= start <= stop <= self.lengths.item(i):
            raise IndexError(
                f"{self.name}: bytes [{start}, {stop}) of document {i}, which has {self.lengths[i]} bytes"
            )
        place, at = self.where.item(i), self.starts.item(i) + start
        if place < 0:
            return bytes(memoryview(self.memory)[at : at + stop - start])
        return read_file(self.files[place], at, stop - start)


def read_file(path: str, start: int, size: int) -> bytes:
    """`size` bytes of the file from byte `start` on. Raises OSError if it is gone or too short."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        data = file.read(size)
        while data is not None and 0 < len(data) < size:  # an unbuffered read may return less than asked
            more = file.read(size - len(data))
            if not more:
                break
            data += more
    if data is None or len(data) != size:
        raise OSError(
            f"{path}: wanted bytes [{start}, {start + size}) but the file ends before; "
            f"it changed after it was opened"
        )
    return data


class TableBuilder:
    """Collects documents, drops and counts empty ones, and closes into a `Table`."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._memory = bytearray()
        self._files: list[str] = []
        self._rows: list[tuple[int, int, int]] = []  # where, start, length
        self._labels: list[Label] = []

    def skip(self, reason: str, count: int = 1) -> None:
        """Counts something that was left out."""
        self.skipped[reason] += count

    def add(self, data: bytes, label: Label | None = None) -> None:
        """A document to keep in memory. All of a table have a label, or none has."""
        if not data:
            return self.skip("empty document")
        if label is not None:
            self._labels.append(label)
        self._rows.append((-1, len(self._memory), len(data)))
        self._memory += data

    def add_file(self, path: str, start: int, stop: int) -> None:
        """Bytes [start, stop) of a file as a document that stays on disk."""
        if start == stop:
            return self.skip("empty document")
        self._rows.append((len(self._files), start, stop - start))
        self._files.append(os.fspath(path))

    def build(self, name: str, if_empty: str) -> Table:
        """The table; logs what was skipped. Raises ValueError, ending in `if_empty`, without documents."""
        note_skipped(name, self.skipped)
        if not self._rows:
            left_out = f" ({describe(self.skipped)})" if self.skipped else ""
            raise ValueError(f"{name}: no document in this split{left_out}; {if_empty}")
        where, starts, lengths = np.array(self._rows, np.int64).T.copy()
        return Table(
            name, self._memory, tuple(self._files), where, starts, lengths,
            skipped=dict(self.skipped), labels=tuple(self._labels) or None,
        )  # fmt: skip


def describe(skipped: Mapping[str, int]) -> str:
    """The counts as words: `skipped 3 empty document, 1 duplicate`."""
    return "skipped " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


def note_skipped(name: str, skipped: Mapping[str, int]) -> None:
    """Logs what a source left out, if anything."""
    if skipped:
        log.info("%s: %s", name, describe(skipped))


# ---- splits ----------------------------------------------------------------------------------------


def check_split(split: str, offered: tuple[str, ...], name: str) -> None:
    """Raises ValueError unless `split` is one of train, valid, test and this source has it."""
    if split not in SPLITS:
        raise ValueError(f"{name}: unknown split {split!r}; it is one of {', '.join(SPLITS)}")
    if split not in offered:
        raise ValueError(
            f"{name}: has no {split!r} split, only {', '.join(offered) or 'none'}; "
            f"its fields say what goes where"
        )


def check_fractions(valid_fraction: float, test_fraction: float, name: str) -> None:
    """Raises ValueError unless both are in [0, 1) and leave something to train on."""
    if not (0 <= valid_fraction < 1 and 0 <= test_fraction < 1 and valid_fraction + test_fraction < 1):
        raise ValueError(
            f"{name}: valid_fraction {valid_fraction} and test_fraction {test_fraction} must be in [0, 1) "
            f"and their sum below 1"
        )


def hashed_splits(valid_fraction: float, test_fraction: float) -> tuple[str, ...]:
    """The splits that `split_of_digest` can answer with these fractions."""
    return (
        "train",
        *(("valid",) if valid_fraction > 0 else ()),
        *(("test",) if test_fraction > 0 else ()),
    )


def split_of_digest(digest: bytes, valid_fraction: float, test_fraction: float) -> str:
    """The split of a document from a digest of its content alone.

    Equal documents therefore lie in one split, wherever they were found, and adding documents moves no
    other. The first 8 bytes are read as a number in [0, 1).
    """
    u = int.from_bytes(digest[:8], "big") / 2.0**64
    if u < valid_fraction:
        return "valid"
    return "test" if u < valid_fraction + test_fraction else "train"


def utf8_cut(read: Callable[[int, int], bytes], cut: int, length: int) -> int:
    """The last place at or before `cut` that does not lie inside a UTF-8 character.

    `read(start, stop)` gives bytes of a document of `length` bytes. At most three bytes are given back;
    where four bytes in a row continue a character the document is not UTF-8, and `cut` stays.
    """
    if not 0 < cut < length:
        return cut
    low = max(0, cut - 3)
    window = read(low, cut + 1)
    for place in range(cut, low - 1, -1):
        if window[place - low] & 0xC0 != 0x80:
            return place
    return cut
