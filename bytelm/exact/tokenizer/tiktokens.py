"""A `tiktoken.Encoding` as a `Source`; any object with the same attributes will do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bytelm.exact.cuts.pretokenizers import byte_alphabet, cuts_of
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.source import Source


def source(encoding: Any) -> Source:
    """Ranks are the ids; a pre-token that is a token is that token. Raises `Unsupported`."""
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    special: dict[str, int] = dict(encoding._special_tokens)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise Unsupported("ranks", f"{len(missing)} bytes without a token", "it cannot encode every text")
    alphabet = byte_alphabet()
    pieces: list[str | None] = [None] * (1 + max([*ranks.values(), *special.values()]))
    for data, token in ranks.items():
        pieces[token] = "".join(alphabet[byte] for byte in data)

    def merges() -> Iterable[tuple[int, int, int, int]]:
        for data, token in ranks.items():
            for i in range(1, len(data)):
                left, right = ranks.get(data[:i]), ranks.get(data[i:])
                if left is not None and right is not None:
                    yield left, right, token, token

    split = {"type": "Split", "pattern": {"Regex": _ruby(encoding._pat_str)}, "behavior": "Isolated"}
    return Source(
        pieces=pieces,
        byte_level=True,
        merges=merges(),
        cuts=cuts_of({**split, "invert": False}),
        encode=encoding.encode_ordinary,
        ignore_merges=True,
        special=special,
        family="byte-level BPE",
        pre_tokenizer=encoding._pat_str,
    )


def _ruby(pattern: str) -> str:
    r"""A pattern in Rust's syntax, spelled in Ruby's: `$` is the end of the text, `{1,3}+` possessive."""
    if re.search(r"\\\$|\[[^\]]*\$", pattern):
        raise Unsupported("pre_tokenizer", pattern, "a dollar sign that is a character")
    # At the end of an alternative possessive and greedy are the same.
    spelled = re.sub(r"(\{\d+(?:,\d*)?\})\+(?=\||\Z)", r"\1", pattern.replace("$", r"\z"))
    if re.search(r"\{\d+(?:,\d*)?\}\+", spelled):
        raise Unsupported("pre_tokenizer", pattern, "a possessive counted repeat inside an alternative")
    return spelled
