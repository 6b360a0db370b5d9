"""What the tokens of a tokenizer.json spell: sub-words for models that read bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol


class Boundaries(Protocol):
    """What is asked of a boundary rule (`bytelm.words.Rule`)."""

    @property
    def cap(self) -> int: ...

    def cut(self, data: bytes) -> list[bytes]: ...


def spellings(path: Path, boundaries: Boundaries | None = None) -> set[bytes]:
    """The spellings of a byte-level BPE's or a WordPiece's tokens, without special tokens.

    A WordPiece's pieces inside words are taken without their prefix. With a boundary rule those that it would
    cut are left out, since no word can hold them. Raises ValueError, naming `path`, for another tokenizer.
    """
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        added = {token["content"] for token in model.get("added_tokens") or () if token.get("special")}
        kind, vocab = model["model"].get("type"), model["model"]["vocab"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a tokenizer.json: {error!r}") from error
    if kind == "WordPiece":
        prefix = model["model"].get("continuing_subword_prefix", "##")
        found = {token.removeprefix(prefix).encode() for token in vocab if token not in added}
    else:
        from bytelm.data.tokens import Tokens

        found = set(Tokens(path).data)
    found.discard(b"")
    if boundaries is None:
        return found
    return {s for s in found if len(s) <= boundaries.cap and len(boundaries.cut(s)) == 1}
