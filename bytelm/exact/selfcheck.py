"""A check at start-up: the tokenizer's own encodings of a few awkward texts must be in D, as we see it.

It proves nothing, but a pattern that this package and the tokenizer read differently shows here at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytelm.exact.errors import Unsupported

if TYPE_CHECKING:
    from bytelm.exact.canonical import Canonical
    from bytelm.exact.unigram import UnigramCanonical

TEXTS = (
    "The cat isn't   here; they'LL'd  we've\n\n  'tis 's 'S\u017f\r\n",
    "x = 12345 + 1 22 333  4444 ² ٣٤\t\t// ok /* a */ ---  !!\n\n\n   \n",
    "naïve e\u0301 Ünï İ ǅ ß 中文 字 한국어 العربية हिन्दी ไทย 😀 👩\u200d👩 \u00a0\u3000 \u2028 ",
    "camelCase HTTPServer aB ABc a1B2 3D ﬁne\x00\x7f\ufeff\U00050000 <s> <|endoftext|>   ",
)


def check(canonical: Canonical | UnigramCanonical) -> None:
    """Raises `Unsupported` where an encoding that survives decoding is not accepted."""
    vocabulary, source = canonical.vocabulary, canonical.source
    for text in (piece for line in TEXTS for piece in (line, *line.split(" "))):
        if not text:
            continue
        tokens = source.encode(text)
        spelled = b"".join(vocabulary.data[t] for t in tokens)
        if spelled != (" " * source.dummy + text).encode():
            continue
        state = canonical.follow(tokens)
        if not state or not canonical.ends(state):
            raise Unsupported(
                "pre_tokenizer",
                source.pre_tokenizer,
                f"it is not read as the tokenizer does: {text!r} differs",
            )
