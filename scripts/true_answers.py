"""What the true answers of benchmark files pass in the sandbox, and what empty ones pass.

    python scripts/true_answers.py FILE [FILE ...] [--only true] [--workers 2] [--seconds 10] [--limit N]

Every true answer should pass: one that does not has a wrong test, or the sandbox refuses something that it
needs. Empty ones are nothing in the hole; those that loop for ever take their time. Prints a table, and the
names of what failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from bytelm.cli.common import table
from bytelm.evals import benchmarks
from bytelm.evals.sandbox import Limits, Sandbox

KINDS = ("true", "empty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--only", choices=KINDS, help="(default: both)")
    parser.add_argument("--workers", type=int, default=2, help="programs that run at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="the time of a program")
    parser.add_argument("--limit", type=int, help="only the first so many items of a file")
    options = parser.parse_args()
    kinds = KINDS if options.only is None else (options.only,)
    rows = [("file", "items", *(f"{kind} answers pass" for kind in kinds))]
    failed = []
    try:
        with (
            Sandbox(Limits(seconds=options.seconds), workers=options.workers) as box,
            ThreadPoolExecutor(options.workers) as pool,
        ):
            for path in options.files:
                items = benchmarks.read(path)[: options.limit]
                passed = Counter[str]()
                for kind in kinds:
                    answers = [item.middle if kind == "true" else b"" for item in items]
                    verdicts = pool.map(lambda item, answer: item.verdict(answer, box.run), items, answers)
                    bar = tqdm(zip(items, verdicts, strict=True), total=len(items), desc=kind, disable=None)
                    for item, verdict in bar:
                        passed[kind] += verdict == "passed"
                        if kind == "true" and verdict != "passed":
                            failed.append(f"{path}: {item.name}: {verdict}")
                counts = (len(items), *(passed[kind] for kind in kinds))
                rows.append((Path(path).name, *(f"{count:,}" for count in counts)))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"true_answers.py: error: {error}")
    print("\n".join([table(rows), *failed]))


if __name__ == "__main__":
    main()
