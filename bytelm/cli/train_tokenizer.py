"""`bytelm train-tokenizer`: a byte-level BPE of the training documents of a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bytelm.cli.common import UsageError, table, usage
from bytelm.cli.sources import FromSource


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(FromSource):
    """Train a byte-level BPE on the training documents of a source and write DIR/tokenizer.json.

    They come from files, folders and globs, or from --stdlib, or from --tfds. The same documents give the
    same file. Prints what the tokenizer makes of the held-out documents.
    """

    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write tokenizer.json in."""
    size: int = 8192
    """Tokens, with the 256 bytes and the special tokens: end of text and three for fill-in-the-middle."""
    pattern: Literal["gpt2", "llama3", "starcoder"] = "gpt2"
    """Whose pre-tokenizer: where no token crosses."""
    longest: int | None = None
    """The most bytes of a token, 3 or 4 as in KL3M (None: any number)."""

    def run(self) -> None:
        self.check_source()
        from bytelm.data.tokenizer import check, train
        from bytelm.data.tokens import Tokens

        path = Path(self.out) / "tokenizer.json"
        if path.exists():
            raise UsageError(f"{path} is there already; name another --out")
        with usage(ValueError, FileNotFoundError, OSError):
            check(self.size, self.pattern, self.longest)
            source = self.source()
            made = train(source.open("train"), size=self.size, pattern=self.pattern, longest=self.longest)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made.to_str(pretty=True), encoding="utf-8")
        tokens = Tokens(path)
        rows = [("split", "documents", "bytes", "tokens", "bytes a token")]
        for split in source.splits[1:] or source.splits:
            opened = source.open(split)
            count = size = ids = 0
            for i in range(len(opened)):
                encoded = tokens.encode([opened[i]])[0]
                if encoded is not None:
                    count, size, ids = count + 1, size + len(opened[i]), ids + len(encoded)
            rows.append((split, f"{count:,}", f"{size:,}", f"{ids:,}", f"{size / max(ids, 1):.3f}"))
        print(f"{path}: {tokens.vocab_size:,} tokens\n{table(rows)}")
