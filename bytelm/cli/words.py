"""`bytelm words`: how long words are, by boundary rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from bytelm.cli.common import UsageError, read, table, usage


@dataclass(frozen=True, kw_only=True)
class Words:
    """Bytes a word of files, each taken as one document, by boundary rule.

    With several files, also the premium of each: its words over those of the first file, which says something
    of languages if the files are translations of one text.
    """

    files: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FILE [FILE ...]", help_behavior_hint=""),
    ] = ()
    """Files, any bytes."""
    rules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RULE [RULE ...]", help_behavior_hint="")] = ()
    """Boundary rules by name (default: all)."""
    cap: int | None = None
    """The most bytes of a word (default: what models use)."""
    json: bool = False
    """Print JSON in place of a table."""

    def run(self) -> None:
        if not self.files:
            raise UsageError("no FILE given")
        texts = [read(path) for path in self.files]
        from bytelm import words

        with usage(ValueError):
            cap = words.CAP if self.cap is None else self.cap
            rules = [words.rule(name, cap) for name in self.rules or words.RULES]
        found = {r.name: [_measured(r.ended_before(text)) for text in texts] for r in rules}
        if self.json:
            print(json.dumps({"cap": cap, "rules": _record(self.files, found)}, indent=2))
        else:
            print(_report(self.files, found))


class _Measured(NamedTuple):
    """Lengths in bytes; those of a file without words are None."""

    bytes: int
    words: int
    mean: float | None
    p50: int | None
    p99: int | None
    max: int | None


def _measured(ended_T: np.ndarray) -> _Measured:
    """Of the words that begin where `ended_T` says."""
    if not ended_T.size:
        return _Measured(0, 0, None, None, None, None)
    counts = np.bincount(np.diff(np.flatnonzero(np.append(ended_T, True))))
    below = np.cumsum(counts)
    words = int(below[-1])
    # The shortest length that so large a share of words does not exceed.
    p50, p99 = (int(np.searchsorted(below, share * words)) for share in (0.5, 0.99))
    return _Measured(ended_T.size, words, ended_T.size / words, p50, p99, len(counts) - 1)


def _premium(file: _Measured, first: _Measured) -> float | None:
    return file.words / first.words if first.words else None


def _record(files: Sequence[str], found: dict[str, list[_Measured]]) -> dict[str, object]:
    return {
        rule: [
            {"file": name, **measured._asdict(), "premium": _premium(measured, by_file[0])}
            for name, measured in zip(files, by_file, strict=True)
        ]
        for rule, by_file in found.items()
    }


def _report(files: Sequence[str], found: dict[str, list[_Measured]]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"

    width = max(map(len, files))  # the table sets all columns but the first to the right
    columns = ("bytes", "words", "bytes a word", "p50", "p99", "max", "premium")
    rows: list[tuple[str, ...]] = [("rule", "file".ljust(width), *columns)]
    for rule, by_file in found.items():
        for name, measured in zip(files, by_file, strict=True):
            values = [*measured, _premium(measured, by_file[0])]
            rows.append((rule, name.ljust(width), *map(shown, values)))
    return table(rows if len(files) > 1 else [row[:-1] for row in rows])
