"""The training stream: endless batches, read ahead on a thread, resumable to the byte."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from bytelm.data.coding import Coding
from bytelm.data.documents import Documents
from bytelm.data.packing import Batch, PackDataset
from bytelm.data.pieces import piece_sequence


def train_stream(
    source: Documents,
    *,
    rows: int,
    length: int,
    seed: int,
    lanes: Sequence[int] | None = None,
    piece: int | None = None,
    prefetch: int = 2,
    coding: Coding | None = None,
) -> TrainStream:
    """Endless shuffled batches of an opened source.

    Args:
      source: `config.open("train")`. Mixtures are mixed by bytes, see `Mix`.
      rows: rows of the global batch, over all hosts.
      length: targets of a row. A document longer than the rest of its row goes on in the next batch, in the
        same lane (row of the global batch), so its later parts are seen without the earlier ones.
      seed: of the order and of the cuts.
      lanes: the rows of the global batch that this host wants, increasing; None: all. The global batch is
        the same however it is divided among hosts.
      piece: cut documents into pieces of so many targets before shuffling, elsewhere in each epoch; None
        keeps documents whole. With few or very long documents, set it to `length` or a few times that.
      prefetch: batches read ahead; 0: none, and no thread.
      coding: what turns pieces into symbols; None: their bytes as they are. Order and cuts of the documents
        are the same with any; `piece` counts bytes also for tokens.

    Returns an iterator over `Batch` of [len(lanes), length]. Every target comes exactly once an epoch, with
    the symbol before it as its input. Raises ValueError for arguments that make no sense.
    """
    mine = check_lanes(rows, length, lanes)
    if prefetch < 0:
        raise ValueError(f"prefetch is {prefetch}; it is a number of batches, 0 for none")
    sequence = piece_sequence(source, piece=piece, seed=seed)
    size = 0 if source.lengths is None else int(source.lengths.sum())
    meaning = {"rows": rows, "seed": seed, "piece": piece or 0, "documents": len(source), "bytes": size}
    meaning |= {} if coding is None else coding.meaning
    return TrainStream(PackDataset(sequence, mine, rows, length, coding), mine, meaning, prefetch)


class TrainStream(Iterator[Batch]):
    """What `train_stream` returns. Not for use from several threads at once; close it when done."""

    def __init__(
        self, packed: PackDataset, lanes: tuple[int, ...], meaning: Mapping[str, int], prefetch: int
    ):
        self._lanes, self._meaning = lanes, dict(meaning)
        dataset = grain.experimental.ThreadPrefetchIterDataset(packed, prefetch_buffer_size=prefetch)
        # grain's iterator cannot be let go once the interpreter is being taken down: `finalize` runs before.
        self._held = [iter(dataset)]
        self._close = weakref.finalize(self, _close, self._held)

    @property
    def _iterator(self) -> grain.DatasetIterator:
        if not self._held:
            raise ValueError("this training stream is closed; open another")
        return self._held[0]

    def __next__(self) -> Batch:
        """The next batch. An error of the reading thread is raised here; after it one may try again."""
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The place after the last batch taken, whatever was read ahead; plain integers, fit for JSON.

        `lanes` holds a row (lane, elements finished, targets taken of the next element) for every lane of
        this host; the other entries are what a place means, the same on all hosts.
        """
        return {**self._meaning, "lanes": self._iterator.get_state()["places"].tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on as the stream whose state it was would have.

        `state["lanes"]`, lists or an array, must hold this host's lanes and may hold others: on another
        number of hosts give each the lanes of all (`merge_states`). `length` may differ from before.
        Raises ValueError if the state belongs to other rows, seed, piece, coding or data, or lacks a lane.
        """
        for name, value in self._meaning.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the state is of a stream with {name}={state.get(name)}, this one has {name}={value}; "
                    f"its places mean nothing here"
                )
        places = {int(place[0]): tuple(int(x) for x in place) for place in state["lanes"]}
        missing = [lane for lane in self._lanes if lane not in places]
        if missing:
            raise ValueError(f"the state has no place for lanes {missing}; give the lanes of all hosts")
        if any(len(place) != 3 or min(place) < 0 for place in places.values()):
            raise ValueError("the state is damaged: a lane's place is three integers, none negative")
        self._iterator.set_state({"places": np.array([places[lane] for lane in self._lanes], np.int64)})

    def close(self) -> None:
        """Stops the thread, within the time of one batch. May be called twice."""
        self._close()

    def __enter__(self) -> TrainStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(held: list[grain.DatasetIterator]) -> None:
    held.pop().close()


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One state with the lanes of all hosts' states, for a restart on any number of hosts."""
    return {
        **states[0],
        "lanes": sorted([list(map(int, place)) for state in states for place in state["lanes"]]),
    }


def check_lanes(rows: int, length: int, lanes: Sequence[int] | None) -> tuple[int, ...]:
    """The lanes, all by default. Raises ValueError unless they are increasing and in range(rows)."""
    if rows < 1 or length < 1:
        raise ValueError(f"rows is {rows} and length {length}; both are at least 1")
    mine = tuple(range(rows) if lanes is None else lanes)
    if not mine or list(mine) != sorted(set(mine)) or mine[0] < 0 or mine[-1] >= rows:
        raise ValueError(
            f"lanes are increasing numbers of rows in [0, {rows}), at least one; not {list(mine)}"
        )
    return mine
