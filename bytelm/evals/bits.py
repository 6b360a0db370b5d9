"""Bits per byte: how well a ByteLM predicts texts.

The figure is over real bytes. What the end of a text costs is stated beside it, never in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bytelm.lm import ByteLM, Prompt, as_bytes


@dataclass(frozen=True, eq=False)
class TextBits:
    """What one text costs. `nats_T1` `[len(text) + 1]`: -log p of each byte, and last of its end."""

    nats_T1: np.ndarray
    windowed: bool  # longer than the model's context, so scored in windows

    @property
    def bytes(self) -> int:
        return len(self.nats_T1) - 1

    @property
    def nats(self) -> float:
        """Of all the bytes, without the end of text; inf if one of them is impossible."""
        return float(self.nats_T1[:-1].sum())

    @property
    def end_nats(self) -> float:
        """Of the end of text, after all the bytes."""
        return float(self.nats_T1[-1])

    @property
    def bits_per_byte(self) -> float | None:
        """None for an empty text, which has none."""
        return _per_byte(self.nats, self.bytes)

    @property
    def impossible(self) -> int | None:
        """The offset of the first byte that has probability zero, if one has."""
        offsets = np.flatnonzero(np.isinf(self.nats_T1[:-1]))
        return int(offsets[0]) if len(offsets) else None


@dataclass(frozen=True, eq=False)
class Bits:
    """What several texts cost, each and together."""

    texts: list[TextBits]
    context: int | None  # most symbols the model sees at once; None: no limit, or none stated
    overlap: int  # symbols that neighbouring windows of a longer text share

    @property
    def bytes(self) -> int:
        return sum(t.bytes for t in self.texts)

    @property
    def nats(self) -> float:
        return sum(t.nats for t in self.texts)

    @property
    def end_nats(self) -> float:
        return sum(t.end_nats for t in self.texts)

    @property
    def bits_per_byte(self) -> float | None:
        """Of all bytes together, so that long texts count for more. None if there are no bytes."""
        return _per_byte(self.nats, self.bytes)

    @property
    def standard_error(self) -> float | None:
        """Of `bits_per_byte`, over texts as a sample of documents; None for fewer than two with bytes.

        Bits per byte is a ratio of two sums over documents, whose error is that of the residuals
        bits - ratio * bytes (Cochran, Sampling Techniques, 1977, equation 6.13, for many documents).
        """
        filled = [t for t in self.texts if t.bytes]
        if len(filled) < 2 or np.isinf(self.nats):
            return None
        nats_N = np.array([t.nats for t in filled])
        bytes_N = np.array([t.bytes for t in filled])
        residual_N = nats_N - nats_N.sum() / bytes_N.sum() * bytes_N
        variance = len(filled) / (len(filled) - 1) * (residual_N**2).sum() / bytes_N.sum() ** 2
        return float(np.sqrt(variance) / np.log(2))


def bits_per_byte(
    lm: ByteLM,
    texts: Sequence[bytes | str],
    *,
    prompts: Sequence[Prompt] | None = None,
    batch: int = 8,
    progress: Callable[[int], object] = lambda scored: None,
) -> Bits:
    """Scores texts under a model, `batch` at a time, and calls `progress` with the bytes just scored.

    Raises ValueError where texts and prompts do not pair up, RuntimeError where the model's scores
    are not log probabilities, naming text and offset.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, not {batch}")
    if prompts is not None and len(prompts) != len(texts):
        raise ValueError(f"{len(texts)} texts but {len(prompts)} prompts; give one prompt a text")
    data = [as_bytes(text) for text in texts]
    context: int | None = getattr(lm, "context", None)
    found: dict[int, TextBits] = {}
    # Neighbours in length pad each other least; the longest first, so that memory runs out early or never.
    order = sorted(range(len(data)), key=lambda i: -len(data[i]))
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        scores = lm.score([data[i] for i in rows], None if prompts is None else [prompts[i] for i in rows])
        for i, score in zip(rows, scores, strict=True):
            # One symbol more than bytes is read: the one before the first byte.
            windowed = context is not None and len(data[i]) + 1 > context
            found[i] = TextBits(_checked(score, len(data[i]), i), windowed)
        progress(sum(len(data[i]) for i in rows))
    return Bits([found[i] for i in range(len(data))], context, getattr(lm, "overlap", 0))


def _checked(score: np.ndarray, length: int, index: int) -> np.ndarray:
    """-score, as float64 `[length + 1]`."""
    if np.shape(score) != (length + 1,):
        raise RuntimeError(f"text {index}: score has shape {np.shape(score)}, not ({length + 1},)")
    nats_T1 = 0.0 - np.asarray(score, np.float64)
    if len(bad := np.flatnonzero(~(nats_T1 >= -1e-3))):  # rounding may bring a sure thing below 0
        raise RuntimeError(f"text {index}, offset {bad[0]}: {-nats_T1[bad[0]]} is no log probability")
    return nats_T1


def _per_byte(nats: float, count: int) -> float | None:
    return nats / np.log(2) / count if count else None
