"""CharBench's four tasks from a list of words: items for `bytelm eval`, and training text on other words.

    python scripts/make_charbench.py WORDS --out DATA/charbench [--count 500] [--train 20000] [--share 0.1]
    bytelm eval MODEL --tasks charbench --data-dir DATA

WORDS is any text file; its words of 4 to 10 letters are taken. A tenth (--share) is held out by hash: items
are asked of those, the examples before them and the training text (train.txt) of all others.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from bytelm.evals.chars import TASKS, as_text, held_out, questions, usable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="items of a task at most")
    parser.add_argument("--train", type=int, default=20_000, help="questions of a task in the training text")
    parser.add_argument("--share", type=float, default=0.1, help="of the words, held out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    words = usable(re.findall(r"[^\W\d_]+", options.words.read_text(encoding="utf-8")))
    test = [word for word in words if held_out(word, options.share)]
    train = [word for word in words if not held_out(word, options.share)]
    if not test or len(train) < 4:
        parser.error(f"{options.words}: {len(test)} words to test and {len(train)} to train; too few")
    options.out.mkdir(parents=True, exist_ok=True)
    text = []
    for task in TASKS:
        asked = questions(test, task, min(options.count, len(test)), options.seed)
        trained = questions(train, task, min(options.train, len(train)), options.seed)
        text.append(as_text(trained))
        for name, items in {task: asked, f"examples_{task}": trained[:8]}.items():
            lines = "".join(json.dumps(item) + "\n" for item in items)
            (options.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{task}: {len(asked)} items of {len(test)} words, {len(trained)} to train of {len(train)}")
    (options.out / "train.txt").write_text("".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
