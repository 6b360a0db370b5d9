"""All sources of documents, and their mixture.

A source is a frozen dataclass with plain fields, so that it is a config too. It says in `splits` which of
train, valid and test it has, and `open(split)` gives the `Documents`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol, TypeAlias

import numpy as np

from bytelm.data.documents import SPLITS, Documents, check_split
from bytelm.data.files import Files
from bytelm.data.stdlib import Stdlib
from bytelm.data.tfds_source import Tfds


class Source(Protocol):
    """What every source offers."""

    @property
    def splits(self) -> tuple[str, ...]: ...

    def open(self, split: str, /) -> Documents: ...


AnySource: TypeAlias = Stdlib | Files | Tfds
"""The sources a config may name, besides `Mix`."""


@dataclass(frozen=True)
class Mix:
    """A weighted mixture for training: of all bytes trained on, source i gives `weights[i] / sum(weights)`.

    Weights are proportions of bytes, whatever the documents' lengths; without weights all are equal. They
    hold on average and within 1 %. A source that is small for its weight is repeated more often than others.
    Where lengths are not known (TFDS not written by `prepare`) the mean is estimated from 256 documents.
    Held-out splits are not weighted: `valid` and `test` are the sources' one after the other.
    """

    sources: tuple[AnySource, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"Mix: {len(self.sources)} sources but {len(self.weights)} weights")
        for i, weight in enumerate(self.weights):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"Mix: weight {i} is {weight}; weights are positive, leave the source out instead"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if all(split in source.splits for source in self.sources))

    def open(self, split: str) -> Mixture:
        """Opens every source. Raises ValueError without sources, or if one lacks the split."""
        if not self.sources:
            raise ValueError("Mix: no source given")
        for source in self.sources:  # says which source lacks the split
            check_split(split, source.splits, f"Mix: {source}")
        weights = self.weights or (1.0,) * len(self.sources)
        return Mixture(tuple(source.open(split) for source in self.sources), weights)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Several `Documents` one after the other, with the weights that a training stream mixes them by."""

    parts: tuple[Documents, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        return "Mix(" + ", ".join(part.name for part in self.parts) + ")"

    @cached_property
    def skipped(self) -> Mapping[str, int]:
        return {f"{part.name}: {reason}": n for part in self.parts for reason, n in part.skipped.items()}

    @cached_property
    def lengths(self) -> np.ndarray | None:
        known = [part.lengths for part in self.parts if part.lengths is not None]
        return np.concatenate(known) if len(known) == len(self.parts) else None

    @property
    def sliceable(self) -> bool:
        return all(part.sliceable for part in self.parts)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.array([0, *accumulate(len(part) for part in self.parts)], np.int64)

    def _find(self, i: int) -> tuple[Documents, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.name}: document {i} of {len(self)}")
        part = int(self._starts.searchsorted(i, side="right")) - 1
        return self.parts[part], i - int(self._starts[part])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> bytes:
        part, inner = self._find(i)
        return part[inner]

    def read(self, i: int, start: int, stop: int) -> bytes:
        part, inner = self._find(i)
        return part.read(inner, start, stop)
