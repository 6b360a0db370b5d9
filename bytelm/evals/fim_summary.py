"""What the lines of results say together, and two methods' lines against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bytelm.evals.similarity import mcnemar, mean_interval, pass_at_k

Line = dict[str, Any]
_KS = (1, 10, 100)


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """Of each benchmark: items, pass@k, exact match and similarity, [mean, low, high]; speeds; verdicts."""
    if not lines:
        raise ValueError("no results")
    found = {}
    for benchmark in dict.fromkeys(line["benchmark"] for line in lines):
        found[benchmark] = _of([line for line in lines if line["benchmark"] == benchmark])
    return found


def _of(lines: Sequence[Line]) -> dict[str, Any]:
    problems = [line["problem"] for line in lines]
    n = min(len(line["samples"]) for line in lines)
    samples = [sample for line in lines for sample in line["samples"]]
    verdicts: dict[str, int] = {}
    for sample in samples:
        verdicts[sample["verdict"]] = verdicts.get(sample["verdict"], 0) + 1
    said: dict[str, Any] = {"items": len(lines), "samples": n, "prompts cut": sum(x["cut"] for x in lines)}
    for k in _KS:
        if k <= n:
            rates = [pass_at_k(len(line["samples"]), _right(line), k) for line in lines]
            said[f"pass@{k}"] = mean_interval(rates, problems, share=True)
    for name, share in (("exact", True), ("similarity", False)):
        means = [sum(s[name] for s in line["samples"]) / len(line["samples"]) for line in lines]
        said[name] = mean_interval(means, problems, share)
    seconds, count = sum(s["seconds"] for s in samples), sum(s["bytes"] for s in samples)
    said["bytes"] = count
    said["bytes/s"] = count / seconds if seconds else None
    tokens = [s["tokens"] for s in samples]
    said["tokens a byte"] = sum(tokens) / count if count and None not in tokens else None
    said["verdicts"] = verdicts
    return said


def _right(line: Line) -> int:
    return sum(sample["verdict"] == "passed" for sample in line["samples"])


def compared(first: Sequence[Line], second: Sequence[Line]) -> dict[str, Any]:
    """Of each benchmark the second method less the first, by item: differences of means with intervals.

    McNemar's test is of each item's first completion. ValueError where the items are not the same.
    """
    by_name = {line["name"]: line for line in second}
    if {line["name"] for line in first} != set(by_name):
        raise ValueError("the two runs are not over the same items, or one is not finished")
    found = {}
    for benchmark in dict.fromkeys(line["benchmark"] for line in first):
        pairs = [(line, by_name[line["name"]]) for line in first if line["benchmark"] == benchmark]
        problems = [a["problem"] for a, _ in pairs]
        said: dict[str, Any] = {"items": len(pairs)}
        for name in ("pass@1", "exact", "similarity"):
            said[name] = mean_interval([_mean(b, name) - _mean(a, name) for a, b in pairs], problems, False)
        for name in ("passed", "exact"):
            said[f"McNemar, {name}"] = mcnemar(
                *([_first(x, name) for x in side] for side in zip(*pairs, strict=True))
            )
        found[benchmark] = said
    return found


def _mean(line: Line, name: str) -> float:
    samples = line["samples"]
    if name == "pass@1":
        return _right(line) / len(samples)
    return sum(sample[name] for sample in samples) / len(samples)


def _first(line: Line, name: str) -> bool:
    sample = line["samples"][0]
    return sample["verdict"] == "passed" if name == "passed" else bool(sample[name])
