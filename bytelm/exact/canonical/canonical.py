"""pre(D): which token sequences are beginnings of encodings.

D is the set of encodings of all texts that survive encoding and decoding, special strings in them read
as text; pre(D) are the prefixes of its sequences. A token may follow if some continuation of the text makes
the whole a prefix of an encoding: that depends on the last token and on a *state*, which holds what the
text so far leaves open. `bpe` and `unigram` decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bytelm.exact.canonical.bpe import BpeCanonical
from bytelm.exact.canonical.states import NOTHING
from bytelm.exact.canonical.unigram import UnigramCanonical
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.read import read
from bytelm.exact.tokenizer.source import Source
from bytelm.exact.tokenizer.vocabulary import Vocabulary

_AWKWARD = (
    "The cat isn't   here; they'LL'd  we've\n\n  'tis 's 'S\u017f\r\n",
    "x = 12345 + 1 22 333  4444 ² ٣٤\t\t// ok /* a */ ---  !!\n\n\n   \n",
    "naïve e\u0301 Ünï İ ǅ ß 中文 字 한국어 العربية हिन्दी ไทย 😀 👩\u200d👩 \u00a0\u3000 \u2028 ",
    "camelCase HTTPServer aB ABc a1B2 3D ﬁne\x00\x7f\ufeff\U00050000 <s> <|endoftext|>   ",
)


class Canonical(Protocol):
    """pre(D) of a tokenizer, made by `canonical_of`.

    States are small ints; 0 is no state: the sequence is not in pre(D). Sequences start in `start`, those
    of a segment without a dummy space in `plain_start`. Masks are over the M rows of `vocabulary.order`.
    """

    source: Source
    vocabulary: Vocabulary
    start: int
    plain_start: int

    def ends(self, state: int) -> bool:
        """Whether a sequence in this state is itself in D: whether the text may end here."""

    def mask(self, last: int, state: int) -> np.ndarray:
        """The rows that may follow: booleans `[M]`, read-only; cached."""

    def step(self, last: int, state: int, token: int) -> int:
        """The state after one more token, 0 if it may not follow `last` in `state`."""

    def steps(self, last: int, state: int) -> dict[int, int]:
        """What `step` has answered so far, token -> state; to be read only."""


def canonical_of(tokenizer: Any) -> Canonical:
    """pre(D) of a tokenizer in any of its forms; what is one already is given back.

    Raises `Unsupported`, TypeError for what is no tokenizer.
    """
    if isinstance(tokenizer, BpeCanonical | UnigramCanonical):
        return tokenizer
    source = tokenizer if isinstance(tokenizer, Source) else read(tokenizer)
    canonical = BpeCanonical(source) if source.unigram is None else UnigramCanonical(source)
    _check(canonical)
    return canonical


def follow(canonical: Canonical, tokens: Sequence[int]) -> int:
    """The state after a whole sequence, 0 if it is not in pre(D)."""
    last, state = NOTHING, canonical.start
    for token in tokens:
        state = canonical.step(last, state, token)
        if not state:
            return 0
        last = token
    return state


def _check(canonical: Canonical) -> None:
    """Raises `Unsupported` where the tokenizer's own encoding of an awkward text is not in D, as we see it.

    It proves nothing, but a pattern that this package and the tokenizer read differently shows here at once.
    """
    vocabulary, source = canonical.vocabulary, canonical.source
    for text in (piece for line in _AWKWARD for piece in (line, *line.split(" "))):
        if not text:
            continue
        tokens = source.encode(text)
        spelled = b"".join(vocabulary.data[t] for t in tokens)
        if spelled != (" " * source.dummy + text).encode():
            continue
        state = follow(canonical, tokens)
        if not state or not canonical.ends(state):
            raise Unsupported(
                "pre_tokenizer",
                source.pre_tokenizer,
                f"it is not read as the tokenizer does: {text!r} differs",
            )
