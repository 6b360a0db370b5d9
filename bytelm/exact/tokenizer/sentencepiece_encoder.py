"""SentencePiece's encoding, written out: the best pair first, or Viterbi's algorithm in float32."""

from __future__ import annotations

import heapq

import numpy as np

from bytelm.exact.tokenizer.sentencepiece_file import NORMAL, UNKNOWN, Model
from bytelm.exact.tokenizer.source import SPACE_MARK, Unigram


class Encoder:
    """SentencePiece's own encoding, without the names of control pieces in the text."""

    def __init__(
        self,
        model: Model,
        special: dict[str, int],
        fallback: dict[int, int],
        user: dict[int, str],
        unigram: Unigram | None,
    ):
        self.model, self.fallback, self.unigram = model, fallback, unigram
        self.space = SPACE_MARK if model.escape else " "
        self.unk = next((i for i, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), 0)
        self.user = {content: i for i, content in user.items()}
        self.number = {p: i for i, (p, _, kind) in enumerate(model.pieces) if kind == NORMAL}
        self.longest = max(map(len, [*self.number, *self.user]), default=1)

    def __call__(self, text: str) -> list[int]:
        if self.model.collapse:
            text = " ".join(part for part in text.split(" ") if part)
        if not text:
            return []
        if self.model.dummy:
            text = " " + text
        text = text.replace(" ", self.space)
        user = {content.replace(" ", self.space): i for content, i in self.user.items()}
        symbols: list[tuple[str, int | None]] = []
        at = 0
        while at < len(text):
            size = next(
                (n for n in range(min(self.longest, len(text) - at), 0, -1) if text[at : at + n] in user), 0
            )
            symbols.append((text[at : at + size], user[text[at : at + size]]) if size else (text[at], None))
            at += size or 1
        pieces = self.merge(symbols) if self.unigram is None else self._viterbi(symbols)
        found: list[int] = []
        for piece, token in pieces:
            number = self.number.get(piece) if token is None else token
            data = piece.encode()
            if number is not None:
                found.append(number)
            elif self.fallback and all(byte in self.fallback for byte in data):
                found += [self.fallback[byte] for byte in data]
            else:
                found.append(self.unk)
        return found

    def merge(self, symbols: list[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        parts: list[tuple[str, int | None] | None] = list(symbols)
        after = [*range(1, len(parts)), -1]
        before = list(range(-1, len(parts) - 1))
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            a, b = (parts[left] if left >= 0 else None), (parts[right] if right >= 0 else None)
            if a is None or b is None or a[1] is not None or b[1] is not None:
                return
            number = self.number.get(a[0] + b[0])
            if number is not None:
                heapq.heappush(queue, (-self.model.pieces[number][1], left, right, a[0] + b[0]))

        for i in range(len(parts) - 1):
            offer(i, i + 1)
        while queue:
            _, left, right, text = heapq.heappop(queue)
            a, b = parts[left], parts[right]
            if a is None or b is None or after[left] != right or a[0] + b[0] != text:
                continue
            parts[left], parts[right] = (text, None), None
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [part for part in parts if part is not None]

    def _viterbi(self, symbols: list[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        assert self.unigram is not None
        found: list[tuple[str, int | None]] = []
        run = ""
        for text, token in [*symbols, ("", -1)]:
            if token is None:
                run += text
                continue
            found += [(piece, None) for piece in self._best(run)]
            found += [(text, token)] if text else []
            run = ""
        return found

    def _best(self, text: str) -> list[str]:
        assert self.unigram is not None
        best: list[np.float32 | None] = [np.float32(0), *[None] * len(text)]
        start = [0] * (len(text) + 1)
        for i in range(len(text)):
            here = best[i]
            assert here is not None
            for j in range(i + 1, min(len(text), i + self.longest) + 1):
                number = self.number.get(text[i:j])
                if number is None and j > i + 1:
                    continue
                score = self.unigram.unknown if number is None else self.model.pieces[number][1]
                total, there = np.float32(score) + here, best[j]
                if there is None or total > there:
                    best[j], start[j] = total, i
        pieces, at = [], len(text)
        while at:
            pieces.append(text[start[at] : at])
            at = start[at]
        return pieces[::-1]
