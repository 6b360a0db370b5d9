"""Benchmarks of fill-in-the-middle and of code left to right: their files, programs and rules.

What a file is follows from the fields of its lines, and for HumanEval-Infilling from the name of a task.
Rules are those of the published harnesses: HumanEval (arXiv 2107.03374), HumanEval-Infilling (2207.14255),
MBPP (2108.07732), SAFIM (2403.04814), and the FIM task of SantaCoder (2301.03988).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytelm.evals.following import Outcome
from bytelm.evals.sandbox import checked

_FUNCTION_ENDS = (b"\nclass", b"\ndef", b"\n#", b"\nif", b"\nprint", b"\n@", b"\nassert")
_HOLE = "{{completion}}"
_LINE, _SPAN = 256, 1024  # bytes of a completion at most


@dataclass(frozen=True)
class Check:
    """A program to run: it passes by reaching its end, or where `wanted` is given by what it prints."""

    program: bytes
    stdin: bytes = b""
    wanted: tuple[bytes, ...] | None = None

    def passed(self, outcome: Outcome) -> bool:
        """Printed words are compared, not the space between them; each of `wanted` is right."""
        if self.wanted is None:
            return outcome.verdict == "passed"
        said = outcome.output.split()
        return outcome.status == 0 and any(said == right.split() for right in self.wanted)


@dataclass(frozen=True)
class Item:
    """One task: fill the hole between `prefix` and `suffix`; without a suffix, go on.

    benchmark: which one, as summaries group them. stop, most: where a completion ends. line: the answer is
    a whole line, and its end is given back. tests: of a completion; None where it is compared with `middle`.
    same: what makes two answers the same. problem: items of one problem are no independent samples.
    """

    name: str
    benchmark: str
    prefix: bytes
    suffix: bytes | None
    middle: bytes
    tests: Callable[[bytes], list[Check]] | None
    stop: tuple[bytes, ...] = ()
    most: int = _SPAN
    line: bool = False
    equal_passes: bool = False
    same: Callable[[bytes], bytes] = bytes
    problem: str = ""

    def answer(self, completion: bytes) -> bytes:
        """What stands in the hole after a model's completion."""
        return completion + b"\n" if self.line else completion

    def exact(self, answer: bytes) -> bool:
        """Whether it is the true middle."""
        return self.same(answer) == self.same(self.middle)

    def verdict(self, answer: bytes, run: Callable[[bytes, bytes], Outcome]) -> str:
        """`passed`, or how it failed: at its first test that it does not pass, `run(program, stdin)`."""
        if self.tests is None or (self.equal_passes and self.exact(answer)):
            return "passed" if self.exact(answer) else "failed"
        for test in self.tests(answer):
            outcome = run(test.program, test.stdin)
            if not test.passed(outcome):
                return "failed" if outcome.verdict == "passed" else outcome.verdict
        return "passed"


def read(path: str | Path) -> list[Item]:
    """The items of a file: JSON lines, plain or gzipped, or Parquet.

    Raises ValueError, with file and line, for what is malformed, has fields that no benchmark has, or names
    that come twice; OSError for a file that cannot be read.
    """
    items: list[Item] = []
    lines: dict[str, str] = {}
    for where, record in _records(str(path)):
        try:
            item = _item(record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{where}: {error}") from error
        if item.name in lines:
            raise ValueError(f"{where}: {item.name} is there already ({lines[item.name]})")
        lines[item.name] = where
        items.append(item)
    if not items:
        raise ValueError(f"{path}: no items in it")
    return items


# ---- the benchmarks ------------------------------------------------------------------------------------

_INFILLING = {
    "SingleLineInfilling": "single-line",
    "MultiLineInfilling": "multi-line",
    "RandomSpanInfilling": "random-span",
    "RandomSpanInfillingLight": "random-span-light",
}
_STRINGS = {
    "HumanEval-Infilling": ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test"),
    "HumanEval": ("task_id", "entry_point", "prompt", "canonical_solution", "test"),
    "SantaCoder-FIM": ("name", "language", "prompt", "suffix", "canonical_solution", "tests"),
    "SAFIM": ("lang", "prompt", "eval_prompt", "ground_truth", "task_id"),
    "MBPP": ("text", "code", "test_setup_code"),
}
_OTHERS = {"MBPP": ("task_id", "test_list", "challenge_test_list"), "SAFIM": ("unit_tests",)}


def _item(record: dict[str, Any]) -> Item:
    fields = set(record)
    for kind, strings in _STRINGS.items():
        others = _OTHERS.get(kind, ())
        if fields == {*strings, *others} or (kind == "SAFIM" and fields == set(strings)):
            break
    else:
        near = min(_STRINGS, key=lambda k: len(fields ^ {*_STRINGS[k], *_OTHERS.get(k, ())}))
        known = {*_STRINGS[near], *_OTHERS.get(near, ())}
        raise ValueError(
            f"no benchmark has these fields; nearest is {near}: "
            f"unknown are {sorted(fields - known) or 'none'}, missing are {sorted(known - fields) or 'none'}"
        )
    for name in strings:
        if not isinstance(record[name], str):
            raise ValueError(f"field {name!r} is no string but {record[name]!r:.40}")
    make: dict[str, Callable[[dict[str, Any]], Item]] = {
        "HumanEval-Infilling": _infilling,
        "HumanEval": _humaneval,
        "SantaCoder-FIM": _santacoder,
        "SAFIM": _safim,
        "MBPP": _mbpp,
    }
    return make[kind](record)


def _infilling(record: dict[str, Any]) -> Item:
    split = record["task_id"].split("/")[0]
    if split not in _INFILLING:
        raise ValueError(f"task_id {record['task_id']!r}: known are {', '.join(_INFILLING)}")
    single = split == "SingleLineInfilling"
    prefix, suffix = record["prompt"].encode(), record["suffix"].encode()
    middle, after = record["canonical_solution"].encode(), _humaneval_test(record)
    return Item(
        record["task_id"],
        _INFILLING[split],
        prefix,
        suffix,
        middle,
        lambda answer: [Check(checked(prefix + answer + suffix + after))],
        stop=(b"\n",) if single else (),
        most=_LINE if single else _SPAN,
        line=single,
        problem="/".join(record["task_id"].split("/")[1:3]),
    )


def _humaneval(record: dict[str, Any]) -> Item:
    prefix, after = record["prompt"].encode(), _humaneval_test(record)
    return Item(
        record["task_id"],
        "HumanEval",
        prefix,
        None,
        record["canonical_solution"].encode(),
        lambda answer: [Check(checked(prefix + answer + after))],
        stop=_FUNCTION_ENDS,
    )


def _humaneval_test(record: dict[str, Any]) -> bytes:
    return f"\n{record['test']}\ncheck({record['entry_point']})".encode()


def _mbpp(record: dict[str, Any]) -> Item:
    tests = record["test_list"]
    if not tests or not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise ValueError("field 'test_list' is no list of strings, one or more")
    after = "\n".join(["", record["test_setup_code"], *tests]).encode()
    lines = "\n".join(['"""', record["text"], *tests, '"""', ""])
    return Item(
        f"MBPP/{record['task_id']}",
        "MBPP",
        lines.encode(),
        None,
        record["code"].encode(),
        lambda answer: [Check(checked(answer + after))],
        stop=(b"\nclass", b"\nassert", b'\n"""', b"\nprint", b"\nif"),
    )


def _safim(record: dict[str, Any]) -> Item:
    if record["eval_prompt"].count(_HOLE) != 1:
        raise ValueError(f"eval_prompt: {record['eval_prompt'].count(_HOLE)} places {_HOLE}, not 1")
    prefix, suffix = (part.encode() for part in record["eval_prompt"].split(_HOLE))
    middle, name = record["ground_truth"].encode(), record["task_id"]
    if "unit_tests" not in record:
        return Item(
            f"SAFIM-api/{name}",
            "SAFIM-api",
            prefix,
            suffix,
            middle,
            None,
            stop=(b"\n",),
            most=_LINE,
            same=_unspaced,
        )
    pairs = [_asked(test) for test in record["unit_tests"]]
    if not pairs:
        raise ValueError("field 'unit_tests' is empty: every completion would pass")
    kind = "SAFIM-control" if name.startswith("control") else "SAFIM-block"
    return Item(
        f"{kind}/{name}",
        kind,
        prefix,
        suffix,
        middle,
        lambda answer: [Check(prefix + answer + suffix, given, wanted) for given, wanted in pairs],
        stop=(b"\n",) if kind == "SAFIM-control" else (),
        most=_LINE if kind == "SAFIM-control" else _SPAN,
        equal_passes=True,
    )


def _asked(test: dict[str, Any]) -> tuple[bytes, tuple[bytes, ...]]:
    """What a program is given, and what it may say."""
    given, wanted = test["input"], test["output"]
    if not isinstance(wanted, list) or not wanted:  # of a string each letter would be right
        raise ValueError(f"field 'unit_tests': output is no list of texts but {wanted!r:.40}")
    return given.encode(), tuple(text.encode() for text in wanted)


def _santacoder(record: dict[str, Any]) -> Item:
    return Item(
        f"{record['language']}/{record['name']}",
        f"SantaCoder-FIM-{record['language']}",
        record["prompt"].encode(),
        record["suffix"].encode(),
        record["canonical_solution"].encode(),
        None,
        stop=(b"\n",),
        most=_LINE,
        line=True,
        same=bytes.strip,
    )


def _unspaced(text: bytes) -> bytes:
    return b"".join(text.split())


# ---- files ---------------------------------------------------------------------------------------------


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record and where it stands, for messages."""
    if path.lower().endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(path).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(f"{path}: not a whole Parquet file ({error})") from error
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", row
        return
    with open(path, "rb") as opened:
        data = opened.read()
    if path.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: the gzip file is damaged or cut short ({error})") from error
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: no JSON object")
        yield where, record
