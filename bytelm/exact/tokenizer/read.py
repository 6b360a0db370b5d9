"""A tokenizer in any of its forms, as a `Source`.

What exact conversion does not support is refused by the file that reads the form, with the feature printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytelm.exact.tokenizer import library, sentencepieces, tiktokens
from bytelm.exact.tokenizer.source import Source


def read(tokenizer: Any) -> Source:
    """The source of a tokenizer in any of its forms. Raises `Unsupported`, TypeError, FileNotFoundError."""
    # The readers know this file.

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
