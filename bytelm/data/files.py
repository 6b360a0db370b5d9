"""Documents from files: plain text or any binary, gzip, JSON lines, Parquet."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bytelm.data.documents import (
    Table,
    TableBuilder,
    check_fractions,
    check_split,
    hashed_splits,
    read_file,
    split_of_digest,
    utf8_cut,
)
from bytelm.data.readers import Label, kind_of, read_gzip, read_jsonl, read_labelled, read_parquet


@dataclass(frozen=True)
class Files:
    """Files, folders (with all below them) and globs, in the order given, folders and globs sorted.

    The ending says what a file holds:
      `.jsonl`, `.jsonl.gz`, `.parquet`: many documents, the strings under `field`;
      `.gz`: one document, the file decompressed;
      anything else: one document, the file's bytes as they are.
    Files of the last kind stay on disk and are read in slices. The others are loaded into memory, only the
    split that is opened: write a corpus larger than memory with `prepare` first and read it as `Tfds`.

    Either `paths` are given and `split` says how they are divided:
      `hash`: by a hash of each document's content, so equal documents lie in one split. Every file is read
              once at each opening; name the splits, or `prepare`, where that is too long.
      `tail`: the last `valid_fraction` of every document's bytes is valid, what is before it is train; there
              is no test. No UTF-8 character is cut. For one large text (`valid_fraction=0.1` on tiny
              Shakespeare is nanoGPT's split). The bytes before the cut are not shown to the valid part.
    or the splits are named by paths of their own in `train`, `valid`, `test`.

    With `label`, the field that says what a document is, the documents have labels, for a classifier. All
    files are JSON lines then, and documents stay whole (no `tail`).
    """

    paths: tuple[str, ...] = ()
    field: str = "text"
    split: Literal["hash", "tail"] = "hash"
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    label: str | None = None

    def __post_init__(self) -> None:
        for name in ("paths", "train", "valid", "test"):
            if isinstance(getattr(self, name), str):  # a lone str would be taken for its letters
                raise TypeError(
                    f"Files: {name} must be a tuple of paths, not the string {getattr(self, name)!r}"
                )
        if self.split not in ("hash", "tail"):
            raise ValueError(f"Files: split is 'hash' or 'tail', not {self.split!r}")
        if self.label is not None and self.split == "tail":
            raise ValueError("Files: split 'tail' cuts documents, and `label` is of whole ones; use 'hash'")
        check_fractions(self.valid_fraction, self.test_fraction, "Files")
        if self.paths and (self.train or self.valid or self.test):
            raise ValueError("Files: give `paths`, or `train`, `valid` and `test`, but not both")

    @property
    def splits(self) -> tuple[str, ...]:
        if not self.paths:
            return tuple(name for name in ("train", "valid", "test") if getattr(self, name))
        if self.split == "tail":
            return ("train", "valid") if self.valid_fraction > 0 else ("train",)
        return hashed_splits(self.valid_fraction, self.test_fraction)

    def open(self, split: str) -> Table:
        """Opens a split.

        Raises ValueError for a bad split or bad contents (with file and line), FileNotFoundError for a
        path that is not there or a glob without a match.
        """
        if not self.splits:
            raise ValueError("Files: no path given; set `paths`, or `train`, `valid` and `test`")
        check_split(split, self.splits, "Files")
        builder = TableBuilder()
        given = self.paths or getattr(self, split)
        for path in expand(given, builder):
            if self.label is not None:
                if kind_of(path) != "jsonl":
                    raise ValueError(f"{path}: labels are read from .jsonl and .jsonl.gz; `label` is set")
                for document, label in read_labelled(path, self.field, self.label):
                    self._add(builder, document, split, label)
            elif kind_of(path) == "plain":
                self._add_file(builder, path, split)
            else:
                for document in _contents(path, self.field):
                    self._add(builder, document, split)
        shown = given[0] if len(given) == 1 else f"{given[0]} and {len(given) - 1} more"
        advice = "are all documents empty?"
        if self.paths:
            advice = f"change valid_fraction ({self.valid_fraction}) or test_fraction ({self.test_fraction})"
            advice += ", or use split='tail'" if self.split == "hash" else ""
        return builder.build(f"Files({shown}) {split}", advice)

    def _add(self, builder: TableBuilder, data: bytes, split: str, label: Label | None = None) -> None:
        if not self.paths or not data:
            builder.add(data, label)
        elif self.split == "tail":
            start, stop = self._part(lambda a, b: data[a:b], len(data), split)
            builder.add(data[start:stop])
        elif self._split_of(hashlib.sha256(data).digest()) == split:
            builder.add(data, label)

    def _add_file(self, builder: TableBuilder, path: str, split: str) -> None:
        size = os.path.getsize(path)
        if not self.paths or not size:
            builder.add_file(path, 0, size)
        elif self.split == "tail":
            start, stop = self._part(lambda a, b: read_file(path, a, b - a), size, split)
            builder.add_file(path, start, stop)
        else:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if self._split_of(digest) == split:
                builder.add_file(path, 0, size)

    def _split_of(self, digest: bytes) -> str:
        return split_of_digest(digest, self.valid_fraction, self.test_fraction)

    def _part(self, read: Callable[[int, int], bytes], length: int, split: str) -> tuple[int, int]:
        cut = utf8_cut(read, int(length * (1 - self.valid_fraction)), length)
        return (0, cut) if split == "train" else (cut, length)


def _contents(path: str, field: str) -> Iterable[bytes]:
    """The documents of a container file."""
    match kind_of(path):
        case "jsonl":
            return read_jsonl(path, field)
        case "parquet":
            return read_parquet(path, field)
        case _:
            return [read_gzip(path)]


def expand(paths: Iterable[str], builder: TableBuilder) -> Iterator[str]:
    """The files that paths, folders and globs name, each once; what a folder hides is counted.

    Raises FileNotFoundError for a path that is not there and a glob that matches nothing.
    """
    seen: set[str] = set()
    for given in paths:
        path = os.path.expanduser(given)
        if os.path.exists(path):
            found = [path]
        elif glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True))
        else:
            raise FileNotFoundError(f"Files: no file or folder {given!r} (from {os.getcwd()})")
        if not found:
            raise FileNotFoundError(f"Files: nothing matches {given!r} (from {os.getcwd()})")
        for file in (inner for one in found for inner in _files_below(one, builder)):
            real = os.path.realpath(file)
            if real in seen:
                builder.skip("file named twice")
            else:
                seen.add(real)
                yield file


def _files_below(path: str, builder: TableBuilder) -> list[str]:
    """The path itself if it is no folder, else every regular file below it, sorted."""
    if not os.path.isdir(path):
        return [path]
    found = []
    for root, folders, files in os.walk(path):
        builder.skip("hidden folder", sum(name.startswith(".") for name in folders))
        builder.skip("link to a folder", sum(os.path.islink(os.path.join(root, name)) for name in folders))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                builder.skip("hidden file")
            elif not os.path.isfile(os.path.join(root, name)):
                builder.skip("not a regular file")
            else:
                found.append(os.path.join(root, name))
    builder.skipped = +builder.skipped  # forget reasons that were counted zero times
    return sorted(found, key=lambda file: Path(file).parts)
