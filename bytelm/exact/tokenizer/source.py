"""What a tokenizer is made of, whatever form it comes in: pieces, merges or scores, cuts and added tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bytelm.exact.cuts.guards import Guard
from bytelm.exact.cuts.splits import Cut

SPACE_MARK = "▁"  # U+2581, a space in SentencePiece pieces


@dataclass
class Unigram:
    """What a unigram model has in place of merges.

    matched: the string, in text, that a piece stands for when the best path is looked for, by id; ids
    without one are in no path. scores: log probabilities by id. unknown: the score of a character that
    is no piece of its own. single: sums are made in float32.
    """

    matched: dict[int, str]
    scores: list[float]
    unknown: float
    single: bool = False


@dataclass
class Source:
    """A tokenizer in one form.

    pieces: the piece of every id, None where there is none. byte_level: pieces are in the byte alphabet.
    space: the character that stands for a space in the pieces. dummy: a space is put before the text.
    spaceless: then no text that comes back starts with a space. fallback: byte -> id of `<0xHH>`.
    merges: (left, right, result, rank), of BPE. ignore_merges: a pre-token that is a piece is that token,
    unmerged. unigram: set for unigram models. guards: the normalisers that are not one-to-one.
    added: groups of id -> content of the added tokens that are text, in the order they are looked for;
    `raw` of them before normalisation. special: name -> id. encode: the tokenizer itself, special strings
    read as text.
    """

    pieces: list[str | None]
    byte_level: bool
    merges: Iterable[tuple[int, int, int, int]]
    cuts: list[Cut]
    encode: Callable[[str], list[int]]
    space: str = " "
    dummy: bool = False
    spaceless: bool = False
    fallback: dict[int, int] = field(default_factory=dict)
    ignore_merges: bool = False
    unigram: Unigram | None = None
    guards: list[Guard] = field(default_factory=list)
    added: list[dict[int, str]] = field(default_factory=list)
    raw: int = 0
    special: dict[str, int] = field(default_factory=dict)
    family: str = ""
    pre_tokenizer: str = ""
