"""The first bytes of the documents of files, as one text: cut at a space, a blank line between documents.

    python scripts/excerpt.py FILE [FILE ...] --out TEXT [--bytes 100000] [--documents N] [--field text] \
        [--piece N] [--in-turn N]

FILEs are what `bytelm.data.Files` reads: text, JSON lines, Parquet, gzipped or not; `stdlib` stands for the
training split of Python's standard library. With --in-turn the bytes are not those of the first documents: of
each document a part of at most N bytes, cut at a space, then of each the next. With --piece the text is cut
again, at spaces, into documents of at most so many bytes, and OUT is JSON lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from next_word import first_bytes

from bytelm.data import Files, Stdlib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--documents", type=int, help="the first so many only")
    parser.add_argument("--field", default="text", help="of a JSON line")
    parser.add_argument("--piece", type=int, help="bytes of a document of OUT, which is JSON lines then")
    parser.add_argument("--in-turn", type=int, help="bytes of a document before those of the next one")
    args = parser.parse_args()
    for name, size in (("piece", args.piece), ("in-turn", args.in_turn)):
        if size is not None and size < 4:
            parser.error(f"--{name} is {size}; a character may have 4 bytes")
    try:
        source = Stdlib() if args.files == ["stdlib"] else Files(train=tuple(args.files), field=args.field)
        documents = source.open("train")
        texts = [documents[i] for i in range(len(documents))][: args.documents]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.in_turn:
            turns = itertools.zip_longest(*(cut(text, args.in_turn) for text in texts))
            texts = [part for turn in turns for part in turn if part is not None]
        parts = list(first_bytes(texts, args.bytes))
        text = b"\n\n".join(parts)
        if args.piece:
            whole = parts if args.in_turn else [text]
            pieces = (piece for part in whole for piece in cut(part, args.piece))
            text = "".join(json.dumps({"text": piece.decode()}) + "\n" for piece in pieces).encode()
        args.out.write_bytes(text)
    except (OSError, ValueError) as error:
        sys.exit(f"excerpt.py: error: {error}")
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def cut(text: bytes, size: int) -> Iterator[bytes]:
    """Parts of at most `size` bytes, each but the last with the space that it was cut at. UTF-8 only."""
    text = text.decode("utf-8", "ignore").encode()
    while text:
        space = text.rfind(b" ", 0, size) + 1 if len(text) > size else 0
        part = text[: space or size].decode("utf-8", "ignore").encode()
        yield part
        text = text[len(part) :]


if __name__ == "__main__":
    main()
