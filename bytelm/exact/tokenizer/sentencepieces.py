"""A SentencePiece `.model` (BPE or Unigram) as a `Source`.

The file is a protocol buffer (sentencepiece_model.proto, Apache-2.0), of which a few fields matter; they are
read here, so nothing is executed and the `sentencepiece` package is not needed. The tokenizer itself is
written out too: BPE takes the neighbouring pair whose piece has the highest score, the leftmost of equals;
Unigram is Viterbi's algorithm in float32.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from bytelm.exact.cuts.guards import Guard, Spaces
from bytelm.exact.cuts.pretokenizers import whole
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.sentencepiece_encoder import Encoder
from bytelm.exact.tokenizer.sentencepiece_file import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Model,
    load,
)
from bytelm.exact.tokenizer.source import SPACE_MARK, Source, Unigram

_KINDS = {1: "UNIGRAM", 2: "BPE", 3: "WORD", 4: "CHAR"}
_UNKNOWN_PENALTY = np.float32(10.0)
_LONGEST_RUN = 100  # of one character, in the check of ties


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
        encode=Encoder(model, special, fallback, user, unigram),
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
    own = Encoder(model, {}, {}, {}, None)
    ranks = {(model.pieces[a][0], model.pieces[b][0]): rank for a, b, _, rank in merges}
    for size in range(1, _LONGEST_RUN):
        parts = [char] * size
        while True:
            options = [(ranks.get(pair, 1 << 60), i) for i, pair in enumerate(itertools.pairwise(parts))]
            rank, i = min(options, default=(1 << 60, 0))
            if rank == 1 << 60:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if parts != [piece for piece, _ in own.merge([(char, None)] * size)]:
            runs = [p for p, _, kind in model.pieces if kind == NORMAL and set(p) == {char}]
            raise Unsupported(
                "pieces", runs[:20], "runs of one score whose merging no list of merges can say"
            )
