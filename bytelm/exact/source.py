"""What a tokenizer is made of, whatever form it comes in.

`read` turns a `tokenizers.Tokenizer`, the path of a `tokenizer.json` or of a SentencePiece `.model`, or a
`tiktoken.Encoding` into a `Source`: pieces, merges or scores, cuts, guards and added tokens. What exact
conversion does not support is refused by the file that reads the form, with the feature printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytelm.exact.guards import Guard
from bytelm.exact.pretokenizers import byte_alphabet
from bytelm.exact.splits import Cut

__all__ = ["SPACE_MARK", "Source", "Unigram", "byte_alphabet", "read"]

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


def read(tokenizer: Any) -> Source:
    """The source of a tokenizer in any of its forms. Raises `Unsupported`, TypeError, FileNotFoundError."""
    # The readers know this file.
    from bytelm.exact import library, sentencepieces, tiktokens

    if isinstance(tokenizer, str | Path):
        path = _file(Path(tokenizer))
        if path.suffix == ".model":
            return sentencepieces.source(path)
        return library.source(path.read_text(encoding="utf-8"))
    if all(hasattr(tokenizer, name) for name in ("_mergeable_ranks", "_pat_str", "_special_tokens")):
        return tiktokens.source(tokenizer)
    if hasattr(tokenizer, "to_str") and hasattr(tokenizer, "encode_special_tokens"):
        return library.source(tokenizer.to_str())
    raise TypeError(
        "a tokenizer must be a tokenizers.Tokenizer, the path of a tokenizer.json or of a SentencePiece "
        f".model, or a tiktoken.Encoding, not {type(tokenizer).__name__}"
    )


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("tokenizer.json", "tokenizer.model"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path}: there is neither a tokenizer.json nor a tokenizer.model in it")
