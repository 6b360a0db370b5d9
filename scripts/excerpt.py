"""The first bytes of the documents of files, as one text: cut at a space, a blank line between documents.

    python scripts/excerpt.py FILE [FILE ...] --out TEXT [--bytes 100000] [--documents N] [--field text]

FILEs are what `bytelm.data.Files` reads: text, JSON lines, Parquet, gzipped or not; `stdlib` stands for the
training split of Python's standard library.
"""

from __future__ import annotations

import argparse
import sys
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
    args = parser.parse_args()
    try:
        source = Stdlib() if args.files == ["stdlib"] else Files(train=tuple(args.files), field=args.field)
        documents = source.open("train")
        texts = [documents[i] for i in range(len(documents))][: args.documents]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(b"\n\n".join(first_bytes(texts, args.bytes)))
    except (OSError, ValueError) as error:
        sys.exit(f"excerpt.py: error: {error}")
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
