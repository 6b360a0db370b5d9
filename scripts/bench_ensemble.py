"""What an ensemble costs over its members: scoring texts, and byte by byte, in the same process.

    python scripts/bench_ensemble.py MODEL MODEL [...] --data FILE [--bytes 2000] [--rows 4] [--rounds 5]

Members and ensembles take turns, and the least time of the rounds counts. The last column is the
ensemble's time over the sum of its members' times for the same work: next_logprobs and push of every byte,
score, or laws.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax

import bytelm
from bytelm.cli.common import table
from bytelm.lm import ByteLM
from bytelm.training.processor import keep_pages

RULES = ("mean", "bayes", "switch", "product")


def scored(lm: ByteLM, texts: list[bytes]) -> None:
    lm.score(texts)


def lawed(lm: ByteLM, texts: list[bytes]) -> None:
    lm.laws(texts)


def pushed(lm: ByteLM, texts: list[bytes]) -> None:
    state = lm.start([b""] * len(texts))
    for symbols in zip(*texts, strict=True):
        lm.next_logprobs(state)
        state = lm.push(state, symbols)


def seconds(works: list[Callable[[], None]], rounds: int) -> list[float]:
    """The least time of each, in turns; the first turn compiles and does not count."""
    found = [float("inf")] * len(works)
    for turn in range(rounds + 1):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            if turn:
                found[i] = min(found[i], time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=2000, help="of each text that is scored")
    parser.add_argument("--pushes", type=int, default=100, help="bytes of each text, byte by byte")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_pages()
    members = [bytelm.load(path) for path in options.models]
    ensembles = {rule: bytelm.Ensemble(members, rule) for rule in RULES}
    data = options.data.read_bytes()
    texts = [data[i * options.bytes : (i + 1) * options.bytes] for i in range(options.rows)]
    short = [text[: options.pushes] for text in texts]
    print(f"jax {jax.__version__}, {jax.devices()[0]}, {platform.machine()}; {options.rows} rows")
    rows = [("work", "rule", "members, ms", "ensemble, ms", "ratio")]
    parts = [
        (f"score, {options.bytes} bytes", scored, texts, [r for r in RULES if r != "product"]),
        (f"laws, {options.bytes} bytes", lawed, texts, list(RULES)),
        (f"byte by byte, {options.pushes} bytes", pushed, short, list(RULES)),
    ]
    for name, work, given, rules in parts:
        lms = [*members, *(ensembles[rule] for rule in rules)]
        times = seconds([lambda lm=lm, w=work, g=given: w(lm, g) for lm in lms], options.rounds)  # type: ignore[misc]
        alone = sum(times[: len(members)])
        for rule, took in zip(rules, times[len(members) :], strict=True):
            rows.append((name, rule, f"{alone * 1e3:.0f}", f"{took * 1e3:.0f}", f"{took / alone:.3f}"))
    print(table(rows))


if __name__ == "__main__":
    main()
