"""Next-word accuracy of a run, by how often the word occurs in the training text (bytelm/evals/next_word.py).

    python scripts/next_word.py RUN [--split valid] [--max-bytes 262144] [--context 1023]

The words are those of the first bytes of the run's own held-out documents; occurrences are counted in its
whole training split, whatever of it the run has read. Prints the figures with 95 % bootstrap intervals and
writes every word's outcome to RUN/next_word.npz, from which `scripts/compare.py` makes its tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import bytelm
from bytelm import config as configs
from bytelm.data.documents import Documents
from bytelm.evals.next_word import CONTEXT, NextWord, count_words, next_word, spans

FILE = "next_word.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of train.py")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--max-bytes", type=int, default=2**18, help="of held-out documents")
    parser.add_argument("--context", type=int, default=CONTEXT, help="bytes of context a word has at most")
    args = parser.parse_args()
    try:
        source = configs.read(args.run / "config.json").data.source
        lm = bytelm.load(args.run)
        texts = list(first_bytes(source.open(args.split), args.max_bytes))
        found = next_word(lm, texts, counts_of(texts, source.open("train")), context=args.context)
    except (OSError, ValueError) as error:
        sys.exit(f"next_word.py: error: {error}")
    settings = {"split": args.split, "max_bytes": args.max_bytes}
    save(args.run / FILE, found, settings)
    print(f"words of {sum(map(len, texts)):,} bytes, {found.context} bytes of context at most")
    for share in found.figures():
        shown = "-" if share.value is None else f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        print(f"{share.name:>6}  {share.words:>8,} words  {shown}")
    print(f"intervals: 95 %, {found.figures()[0].unit} drawn again; too long: {found.too_long:,} words")


def first_bytes(documents: Documents | Sequence[bytes], max_bytes: int) -> Iterator[bytes]:
    """The first `max_bytes` bytes of the documents; the one in which they end stops with a whole word."""
    for i in range(len(documents)):
        data = documents[i]
        if len(data) > max_bytes:
            data = b"".join(data[:max_bytes].rpartition(b" ")[:2])
            max_bytes = 0
        yield data
        max_bytes -= len(data)
        if max_bytes <= 0:
            return


def counts_of(texts: list[bytes], training: Documents) -> dict[bytes, int]:
    """How often each word of the texts occurs in the training documents."""
    wanted = {text[a:b] for text in texts for a, b in spans(text).tolist()}
    # disable=None: no bar unless standard error is a terminal.
    with tqdm(unit="B", unit_scale=True, desc="training text", disable=None) as bar:
        return count_words((training[i] for i in range(len(training))), wanted, progress=bar.update)


def save(path: Path, found: NextWord, settings: dict[str, object]) -> None:
    part = path.with_name("part-" + path.name)
    np.savez_compressed(part, **vars(found), **settings)
    part.replace(path)


def read(path: Path, settings: dict[str, object]) -> NextWord | None:
    """What `save` wrote; None where there is nothing, or something of other settings."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        if any(saved[name].item() != value for name, value in settings.items()):
            return None
        arrays = (saved[name] for name in ("correct_N", "document_N", "count_N"))
        return NextWord(*arrays, saved["context"].item(), saved["too_long"].item())


if __name__ == "__main__":
    main()
