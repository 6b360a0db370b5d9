"""Tokenizers of runs: byte-level BPE trained on a run's own documents, or one that exists already.

Sennrich et al. (arXiv 1508.07909) over GPT-2's byte alphabet, by the `tokenizers` library. With `longest` no
token is longer than so many bytes, as in KL3M (arXiv 2503.17247, tokens of 3 or 4 characters): the library
counts bytes, which for ASCII are characters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bytelm.data.documents import Documents
from bytelm.data.sources import Source

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
FIM_NAMES = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
SPECIAL_NAMES = (END_OF_TEXT, *FIM_NAMES)  # of the tokenizers made here: ids 0..3
SMALLEST = len(SPECIAL_NAMES) + 256  # the special tokens and the bytes

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bpe:
    """Which tokenizer a run reads its data with: one of its own, or the one in `path`."""

    path: str | None = None
    """An existing tokenizer.json, byte-level; the fields below then say nothing."""
    size: int = 8192
    """Tokens, with the special ones and the 256 bytes."""
    pattern: Literal["gpt2", "llama3", "starcoder"] = "gpt2"
    """Whose pre-tokenizer: where no token crosses."""
    longest: int | None = None
    """The most bytes of a token; None: any number."""

    def __post_init__(self) -> None:
        if self.path is None:
            check(self.size, self.pattern, self.longest)


def check(size: int, pattern: str, longest: int | None) -> None:
    """Raises ValueError for settings that make no tokenizer."""
    if size < SMALLEST:
        raise ValueError(
            f"a vocabulary of {size} tokens is too small: {SMALLEST} are the 256 bytes and "
            f"{', '.join(SPECIAL_NAMES)}"
        )
    if longest is not None and longest < 2:
        raise ValueError(f"longest is {longest} bytes; it is at least 2, or None for any length")
    if pattern not in ("gpt2", "llama3", "starcoder"):
        raise ValueError(f"pattern is 'gpt2', 'llama3' or 'starcoder', not {pattern!r}")


def train(
    documents: Documents, *, size: int = 8192, pattern: str = "gpt2", longest: int | None = None
) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most `size` tokens on all `documents`; the same for the same documents.

    Ids 0..3 are `<|endoftext|>` and the sentinels of fill-in-the-middle, 4..259 the bytes, then the merges in
    order. Documents that are not UTF-8 are left out and counted in the log. Where the documents hold fewer
    merges than asked for there are fewer tokens, which the log says. Raises ValueError for settings that make
    no tokenizer and where no document is left.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    check(size, pattern, longest)
    made = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern != "llama3")
    if pattern == "gpt2":
        made.pre_tokenizer = level
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
        first = pre_tokenizers.Digits(individual_digits=True) if pattern == "starcoder" else split
        made.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_NAMES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        # The library's limit is exclusive, and counts characters of the byte alphabet: bytes.
        max_token_length=None if longest is None else longest + 1,
    )
    made.train_from_iterator(_texts(documents), trainer)
    count = made.get_vocab_size()
    if count < size:
        log.warning("%s: holds merges for %d tokens only, not %d", documents.name, count, size)
    pieces = made.get_vocab().keys() - set(SPECIAL_NAMES)
    if longest is not None and (over := max(map(len, pieces))) > longest:
        raise RuntimeError(f"this version of tokenizers makes tokens of {over} bytes where {longest} is most")
    return made


def _texts(documents: Documents) -> Iterator[str]:
    name, kept, left = documents.name, 0, 0
    for i in range(len(documents)):
        try:
            text = documents[i].decode("utf-8")
        except UnicodeDecodeError:
            left += 1
            continue
        kept += bool(text)
        yield text
    if left:
        log.warning("%s: left out of the tokenizer's training: %d documents that are not UTF-8", name, left)
    if not kept:
        raise ValueError(f"{name}: no document that is UTF-8 text to train a tokenizer on")


def make(config: Bpe, source: Source, folder: Path, keep: bool = False) -> Path:
    """The tokenizer.json of a run, written into its folder: a copy of `path`, or one of the training split.

    With `keep` one that is there stays. Raises ValueError where it is not the one of `path`,
    FileNotFoundError where `path` is none.
    """
    there = folder / "tokenizer.json"
    if config.path is not None:
        given = Path(config.path)
        given = given / "tokenizer.json" if given.is_dir() else given
        if not given.is_file():
            raise FileNotFoundError(f"data.tokenizer.path {config.path}: no such tokenizer.json")
        text = given.read_text(encoding="utf-8")
        if keep and there.is_file():
            if there.read_text(encoding="utf-8") != text:
                raise ValueError(f"{there} is another tokenizer than {given}; choose another --workdir")
            return there
    elif keep and there.is_file():
        return there
    else:
        documents = source.open("train")
        made = train(documents, size=config.size, pattern=config.pattern, longest=config.longest)
        text = made.to_str(pretty=True)
    folder.mkdir(parents=True, exist_ok=True)
    part = there.with_name(there.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(there)
    return there
