"""A SentencePiece `.model` (BPE or Unigram) as a `Source`.

The file is a protocol buffer (sentencepiece_model.proto, Apache-2.0), of which a few fields matter; they are
read here, so nothing is executed and the `sentencepiece` package is not needed. The tokenizer itself is
written out too: BPE takes the neighbouring pair whose piece has the highest score, the leftmost of equals;
Unigram is Viterbi's algorithm in float32.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bytelm.exact.errors import Unsupported
from bytelm.exact.guards import Guard, Spaces
from bytelm.exact.pretokenizers import whole
from bytelm.exact.source import SPACE_MARK, Source, Unigram

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
_KINDS = {1: "UNIGRAM", 2: "BPE", 3: "WORD", 4: "CHAR"}
_UNKNOWN_PENALTY = np.float32(10.0)
_LONGEST_RUN = 100  # of one character, in the check of ties


@dataclass
class Model:
    """What a `.model` says: pieces (text, score, type), and how text is prepared."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = UNIGRAM
    byte_fallback: bool = False
    suffix: bool = False
    rules: bytes = b""
    rules_name: str = ""
    dummy: bool = True
    collapse: bool = True
    escape: bool = True
    denormalises: bool = False


# ---- the file ----------------------------------------------------------------------------------------


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value. Raises ValueError where the message is not whole."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError(
                    f"{where} ends inside a number, at byte {at}: it is cut off or no SentencePiece model"
                )
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire, -1) if wire != 2 else varint()
        if size < 0 or not number:
            raise ValueError(
                f"{where} has a field of an unknown kind before byte {at}: it is no SentencePiece model"
            )
        if at + size > len(data):
            raise ValueError(
                f"{where} ends {at + size - len(data)} bytes early, at byte {len(data)}: it is cut off"
            )
        yield number, data[at : at + size]
        at += size


def load(path: Path) -> Model:
    """The model in a file. Raises ValueError for one that is cut off or something else, FileNotFoundError."""
    name, model = path.name, Model()
    for number, value in _fields(path.read_bytes(), name):
        if number not in (1, 2, 3, 5):
            continue
        if not isinstance(value, bytes):
            raise ValueError(f"{name}: field {number} is a number: it is no SentencePiece model")
        inside = dict(_fields(value, name))
        if number == 1:
            text, score = inside.get(1, b""), inside.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
                raise ValueError(
                    f"{name}: piece {len(model.pieces)} is malformed: it is no SentencePiece model"
                )
            kind = inside.get(3, NORMAL)
            assert isinstance(kind, int)
            model.pieces.append((text.decode(), struct.unpack("<f", score)[0], kind))
        elif number == 2:
            model.kind = int(inside.get(3, UNIGRAM))
            model.suffix = bool(inside.get(24, 0))
            model.byte_fallback = bool(inside.get(35, 0))
        elif number == 3:
            rules, rules_name = inside.get(2, b""), inside.get(1, b"")
            assert isinstance(rules, bytes)
            assert isinstance(rules_name, bytes)
            model.rules, model.rules_name = rules, rules_name.decode()
            model.dummy, model.collapse = bool(inside.get(3, 1)), bool(inside.get(4, 1))
            model.escape = bool(inside.get(5, 1))
        else:
            model.denormalises = bool(inside.get(2, b""))
    if not model.pieces:
        raise ValueError(f"{name} has no pieces: it is empty, cut off or no SentencePiece model")
    return model


# ---- the source --------------------------------------------------------------------------------------


def source(path: Path) -> Source:
    """The source of a `.model`. Raises `Unsupported`, ValueError for what is no such file."""
    model = load(path)
    _check(model)
    space = SPACE_MARK if model.escape else " "
    of_kind = {kind: [i for i, (_, _, k) in enumerate(model.pieces) if k == kind] for kind in range(1, 7)}
    special = {model.pieces[i][0]: i for i in (*of_kind[UNKNOWN], *of_kind[CONTROL])}
    fallback = {int(model.pieces[i][0][3:5], 16): i for i in of_kind[BYTE]} if model.byte_fallback else {}
    named = {*of_kind[BYTE], *special.values()} - set(fallback.values())
    user = {i: model.pieces[i][0].replace(space, " ") for i in of_kind[USER_DEFINED]}
    guards: list[Guard] = []
    if model.collapse:
        guards.append(Spaces(leading=True, trailing=True, runs=True, dummy=model.dummy))
    unigram = merges = None
    if model.kind == UNIGRAM:
        matched = {i: model.pieces[i][0].replace(space, " ") for i in of_kind[NORMAL]}
        scores = [score for _, score, _ in model.pieces]
        worst = np.float32(min((scores[i] for i in of_kind[NORMAL]), default=0.0))
        unigram = Unigram(matched, scores, float(worst - _UNKNOWN_PENALTY), single=True)
    else:
        merges = _merges(model, of_kind[NORMAL])
    return Source(
        pieces=[
            None if i in named and i not in special.values() else p
            for i, (p, _, _) in enumerate(model.pieces)
        ],
        byte_level=False,
        merges=merges or [],
        cuts=[whole()],
        encode=_Encoder(model, special, fallback, user, unigram),
        space=space,
        dummy=model.dummy,
        spaceless=model.dummy and model.collapse,
        fallback=fallback,
        unigram=unigram,
        guards=guards,
        added=[user] if user else [],
        special=special,
        family=f"SentencePiece {_KINDS[model.kind]}",
        pre_tokenizer="none (a SentencePiece model)",
    )


def _check(model: Model) -> None:
    if model.kind not in (UNIGRAM, BPE):
        raise Unsupported(
            "model", _KINDS.get(model.kind, str(model.kind)), "only BPE and Unigram models are converted"
        )
    if model.rules:
        shown = f"{model.rules_name or 'a map of characters'} ({len(model.rules)} bytes)"
        raise Unsupported(
            "normalizer", shown, "a character map; a tokenizer.json of this model may spell it as NFKC"
        )
    if model.denormalises:
        raise Unsupported("denormalizer", "a map of characters", "decoding changes texts")
    if model.suffix:
        raise Unsupported("trainer", "treat_whitespace_as_suffix", "a space is put after the text")
    unused = [piece for piece, _, kind in model.pieces if kind == UNUSED]
    if unused:
        raise Unsupported(
            "pieces", unused[:5], f"{len(unused)} unused pieces, which are cut again after encoding"
        )
    texts = [piece for piece, _, kind in model.pieces if kind in (NORMAL, USER_DEFINED)]
    if len(set(texts)) < len(texts):
        raise Unsupported("pieces", [t for t in texts if texts.count(t) > 1][:3], "the same piece twice")


def _merges(model: Model, normal: list[int]) -> list[tuple[int, int, int, int]]:
    """Candidates by score, each piece with all pairs that make it.

    Pieces of one score that are parts of each other are merged from the left as far as they go before the
    next place is looked at, which no list of merges says in general. Runs of one character, the only ones
    that occur (of spaces), are given merges that come to the same, and that is checked.
    """
    number = {model.pieces[i][0]: i for i in normal}
    by_score: dict[float, list[str]] = {}
    for text, i in number.items():
        by_score.setdefault(model.pieces[i][1], []).append(text)
    found: list[tuple[int, int, int, int]] = []
    rank = 0
    for score in sorted(by_score, reverse=True):
        texts = [t for t in by_score[score] if len(t) > 1]
        nested = _nested(texts)
        for text in [*sorted(nested, key=_order_of_runs), *(t for t in texts if t not in nested)]:
            size = len(text)
            low = size & -size
            # A run of 8 is made of 4 and 4, one of 14 of 12 and 2.
            places = [size // 2 if low == size else size - low] if text in nested else range(1, size)
            for k in places:
                left, right = number.get(text[:k]), number.get(text[k:])
                if left is not None and right is not None:
                    found.append((left, right, number[text], rank))
            rank += text in nested
        rank += 1
    for text in {t[0] for texts in by_score.values() for t in _nested([t for t in texts if len(t) > 1])}:
        _check_runs(model, text, found)
    return found


def _nested(texts: list[str]) -> set[str]:
    """The texts that are parts of others here, and those others."""
    known, found = set(texts), set[str]()
    if len({len(t) for t in texts}) < 2:
        return found
    for text in texts:
        inner = {text[i:j] for i in range(len(text)) for j in range(i + 2, len(text) + 1)} - {text}
        if inner & known:
            found |= {text} | (inner & known)
    mixed = [t for t in found if len(set(t)) > 1]
    if mixed:
        raise Unsupported("pieces", mixed[:5], "of one score, and parts of each other")
    return found


def _order_of_runs(text: str) -> tuple[int, int]:
    size = len(text)
    low = size & -size
    return (0, size) if low == size else (1, -low)  # powers of two, then what a larger part is added to


def _check_runs(model: Model, char: str, merges: list[tuple[int, int, int, int]]) -> None:
    own = _Encoder(model, {}, {}, {}, None)
    ranks = {(model.pieces[a][0], model.pieces[b][0]): rank for a, b, _, rank in merges}
    for size in range(1, _LONGEST_RUN):
        parts = [char] * size
        while True:
            options = [(ranks.get(pair, 1 << 60), i) for i, pair in enumerate(itertools.pairwise(parts))]
            rank, i = min(options, default=(1 << 60, 0))
            if rank == 1 << 60:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if parts != [piece for piece, _ in own._merge([(char, None)] * size)]:
            runs = [p for p, _, kind in model.pieces if kind == NORMAL and set(p) == {char}]
            raise Unsupported(
                "pieces", runs[:20], "runs of one score whose merging no list of merges can say"
            )


class _Encoder:
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
        pieces = self._merge(symbols) if self.unigram is None else self._viterbi(symbols)
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

    def _merge(self, symbols: list[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
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
