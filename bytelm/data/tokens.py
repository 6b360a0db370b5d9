"""A tokenizer.json as training data need it: ids of whole documents, and the bytes of each id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bytelm.data.tokenizer import FIM_NAMES

END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOS>")


class Tokens:
    """A byte-level tokenizer, read for training.

    vocab_size: V. data: the bytes of every id, b"" for special tokens. sizes_V: their lengths, uint16.
    end: the id of end of text. sentinels: the ids of `FIM_NAMES`, or None where it lacks them.
    fingerprint: a number that another tokenizer does not share.
    """

    def __init__(self, path: str | Path):
        """Raises ValueError, naming `path`, for a file that is no tokenizer, one that exact conversion would
        refuse, one that is not byte-level and one without end of text; FileNotFoundError without a file."""
        import tokenizers

        from bytelm.exact.tokenizer.read import read
        from bytelm.exact.tokenizer.vocabulary import Vocabulary

        path = Path(path)
        text = path.read_text(encoding="utf-8")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path}: not a tokenizer.json: {error}") from error
        try:
            source = read(self._tokenizer)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if not source.byte_level:
            raise ValueError(f"{path}: a {source.family}; models are trained with byte-level tokenizers only")
        # Text that spells a special token is text; whole documents, whatever the file was used for before.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = Vocabulary.of(source)
        self.path, self.vocab_size, self.data = path, vocabulary.size, vocabulary.data
        self.sizes_V = np.array([len(data) for data in self.data], np.uint16)
        # Tokens that begin inside a character.
        self.inside_V = np.array([bool(data) and data[0] & 0xC0 == 0x80 for data in self.data])
        end = next((name for name in END_NAMES if name in vocabulary.special), None)
        if end is None:
            known = ", ".join(sorted(vocabulary.special)) or "none"
            raise ValueError(
                f"{path}: no special token for the end of text, one of {', '.join(END_NAMES)}; it has {known}"
            )
        self.end_name, self.end = end, vocabulary.special[end]
        self.sentinels: tuple[int, ...] | None = None
        if all(name in vocabulary.special for name in FIM_NAMES):
            self.sentinels = tuple(vocabulary.special[name] for name in FIM_NAMES)
        self.fingerprint = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """The canonical ids of each text, int32; None for one that is not UTF-8, which has none.

        Runs on all cores without Python's lock. Raises ValueError where the ids do not spell the text.
        """
        decoded: list[str | None] = []
        for text in texts:
            try:
                decoded.append(text.decode("utf-8"))
            except UnicodeDecodeError:
                decoded.append(None)
        readable = [text for text in decoded if text is not None]
        found = iter(self._tokenizer.encode_batch_fast(readable, add_special_tokens=False))
        out: list[np.ndarray | None] = []
        for text, one in zip(texts, decoded, strict=True):
            if one is None:
                out.append(None)
                continue
            ids = next(found).ids
            if (spelled := b"".join([self.data[t] for t in ids])) != text:
                at = next((i for i, (a, b) in enumerate(zip(spelled, text, strict=False)) if a != b), None)
                at = min(len(spelled), len(text)) if at is None else at
                raise ValueError(
                    f"{self.path}: this tokenizer loses text: {text[at : at + 20]!r}, at byte {at} of a "
                    f"text of {len(text):,}, reads back as {spelled[at : at + 20]!r}"
                )
            out.append(np.array(ids, np.int32))
        return out
