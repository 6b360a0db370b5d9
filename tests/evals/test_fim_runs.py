"""Runs: interrupted, resumed, deterministic; summaries and comparisons of what they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fakes import hashed, repeating

from bytelm.evals import fim
from bytelm.evals.benchmarks import Check, Item
from bytelm.evals.fim_summary import compared, summary
from bytelm.evals.following import Outcome
from bytelm.evals.prompts import FAMILIES, Fit
from bytelm.lm import symbols_of

FAMILY = FAMILIES["starcoder"]


class Judge:
    """In the sandbox's place: programs that hold an even number of bytes pass."""

    workers = 2

    def run(self, program: bytes, stdin: bytes = b"") -> Outcome:
        verdict = "passed" if len(program) % 2 == 0 else "failed"
        return Outcome(verdict, 77, b"", b"", 0.0)


def items(count=19):
    tests: Callable = lambda answer: [Check(answer)]  # noqa: E731
    return [
        Item(
            f"Split/Human/{i}/x",
            "single-line" if i % 3 else "random-span",
            b"p%d" % i,
            b"s" if i % 4 else None,
            b"m",
            tests,
            stop=(b"\n",) if i % 3 else (),
            most=6,
            line=bool(i % 3),
            problem=f"Human/{i // 2}",
        )
        for i in range(count)
    ]


def method(temperature=1.0, seed=0):
    return fim.by_bytes(hashed(2, seed, among=b"ab\n"), temperature=temperature, top_p=None)


def questions(count=19):
    return fim.asked(items(count), Fit(None, lambda p: len(symbols_of(p))), FAMILY, None)


def timeless(path: Path) -> list[str]:
    """The lines of a results file without the times in them."""
    found = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        for sample in record["samples"]:
            del sample["seconds"]
        found.append(json.dumps(record))
    return found


def evaluate(folder, **settings):
    return fim.evaluate(method(), questions(), folder, {"a": 1}, Judge(), **settings)


def test_prompts_by_item():
    asked = questions()
    assert asked[0].prompt == [b"p0"]  # without a suffix: left to right
    assert asked[1].prompt == FAMILY.prompt(b"p1", b"s")
    with pytest.raises(ValueError, match="Human/1/x: has a suffix"):
        fim.asked(items(), Fit(None, len), None, None)


def test_deterministic_under_a_seed(tmp_path):
    first = evaluate(tmp_path / "a", n=2, seed=5)
    evaluate(tmp_path / "b", n=2, seed=5)
    evaluate(tmp_path / "c", n=2, seed=6)
    a, b, c = (timeless(tmp_path / name / "results.jsonl") for name in "abc")
    assert a == b != c
    assert [line["name"] for line in first] == [item.name for item in items()]
    samples = [sample for line in first for sample in line["samples"]]
    assert {s["verdict"] for s in samples} == {"passed", "failed"}
    assert all(
        s["completion"].endswith("\n") for x in first if x["benchmark"] == "single-line" for s in x["samples"]
    )
    assert any(x["samples"][0]["completion"] != x["samples"][1]["completion"] for x in first)


@pytest.mark.parametrize("at", [0, 3, 8, 13, 18])
def test_killed_and_restarted(tmp_path, at):
    """At any item, also in the middle of a line: the same file as an uninterrupted run."""
    evaluate(tmp_path / "whole", n=2)

    class Killed(Judge):
        left = at * 2

        def run(self, program, stdin=b""):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().run(program, stdin)

    with pytest.raises(KeyboardInterrupt):
        fim.evaluate(method(), questions(), tmp_path / "cut", {"a": 1}, Killed(), n=2)
    path = tmp_path / "cut" / "results.jsonl"
    assert len(path.read_text().splitlines()) <= at
    with path.open("a") as file:
        file.write('{"name": "Spl')  # a line that was being written
    seen: list[int] = []
    evaluate(tmp_path / "cut", n=2, progress=seen.append)
    assert timeless(path) == timeless(tmp_path / "whole" / "results.jsonl")
    assert sum(seen) == 19
    before = path.read_bytes()
    evaluate(tmp_path / "cut", n=2)  # finished: nothing is done again, not even the times
    assert path.read_bytes() == before


def test_another_run_s_folder_is_refused(tmp_path):
    evaluate(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a run with a 1, not 2; choose another --out"):
        fim.evaluate(method(), questions(), tmp_path / "a", {"a": 2}, Judge())
    other = [q for q in questions(20) if "/0/" not in q.item.name]
    with pytest.raises(ValueError, match="holds Split/Human/0/x where Split/Human/1/x belongs"):
        fim.evaluate(method(), other, tmp_path / "a", {"a": 1}, Judge())


def test_a_folder_has_one_writer(tmp_path):
    """A second process would write every line twice, and cut off what the first one wrote."""
    evaluate(tmp_path / "a")
    path = tmp_path / "a" / "results.jsonl"
    whole = path.read_bytes()

    class Second(Judge):
        def run(self, program, stdin=b""):
            with pytest.raises(ValueError, match="another process writes in it"):
                evaluate(tmp_path / "b")
            return super().run(program, stdin)

    fim.evaluate(method(), questions(), tmp_path / "b", {"a": 1}, Second())
    assert timeless(tmp_path / "b" / "results.jsonl") == timeless(path)
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="holds 38 lines, and there are 19 items"):
        evaluate(tmp_path / "a")


def test_damaged_folders_are_named(tmp_path):
    evaluate(tmp_path / "a")
    path, settings = tmp_path / "a" / "results.jsonl", tmp_path / "a" / "settings.json"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\0" * 9 + b"\n", *lines[2:]]))
    for read in (evaluate, fim.read_results):
        with pytest.raises(ValueError, match=r"results\.jsonl, line 2: not JSON"):
            read(tmp_path / "a")
    settings.write_text("")
    for read in (evaluate, fim.read_results):
        with pytest.raises(ValueError, match=r"settings\.json: not JSON"):
            read(tmp_path / "a")


def test_stops_and_limits_are_the_items_own(tmp_path):
    """A model that says one thing: lines end at the newline, spans do not."""
    said = fim.by_bytes(repeating(b"...xy\nzzzzzzzz"), temperature=0.0, top_p=None)
    asked = [fim.Asked(item, b"...", item.most, False) for item in items(6)]
    lines = fim.evaluate(said, asked, tmp_path / "a", {}, Judge())
    for line in lines:
        expected = "xy\n" if line["benchmark"] == "single-line" else "xy\nzzz"
        assert line["samples"][0]["completion"] == expected


def test_bytes_that_are_no_text_come_back(tmp_path):
    said = fim.by_bytes(repeating(b"\xff\xc3"), temperature=0.0, top_p=None)
    asked = [fim.Asked(items(1)[0], b"", 6, False)]
    fim.evaluate(said, asked, tmp_path / "a", {}, Judge())
    _, (line,) = fim.read_results(tmp_path / "a")
    assert line["samples"][0]["completion"].encode("utf-8", "surrogateescape") == b"\xff\xc3"


# ---- summaries -----------------------------------------------------------------------------------------


def lines(passes, tokens=3):
    return [
        {
            "name": str(i),
            "benchmark": "b",
            "problem": str(i // 2),
            "cut": False,
            "samples": [
                {
                    "completion": "",
                    "verdict": "passed" if p else "failed",
                    "exact": bool(p) and i == 0,
                    "similarity": 0.5,
                    "bytes": 4,
                    "tokens": tokens,
                    "seconds": 0.5,
                }
                for p in row
            ],
        }
        for i, row in enumerate(passes)
    ]


def test_a_summary():
    found = summary(lines([[1] * 5 + [0] * 5, [0] * 10, [1] * 10, [0] * 10]))["b"]
    assert (found["items"], found["samples"]) == (4, 10)
    assert found["pass@1"][0] == pytest.approx(0.375)
    assert found["pass@10"][0] == pytest.approx(0.5)
    assert "pass@100" not in found
    assert found["bytes/s"] == pytest.approx(8)
    assert found["tokens a byte"] == pytest.approx(0.75)
    assert found["verdicts"] == {"passed": 15, "failed": 25}
    assert found["pass@1"][1] < found["pass@1"][0] < found["pass@1"][2]
    assert summary(lines([[1]], tokens=None))["b"]["tokens a byte"] is None
    with pytest.raises(ValueError, match="no results"):
        summary([])


def test_a_comparison():
    first, second = lines([[1], [0], [0], [0], [0], [0]]), lines([[1], [1], [1], [1], [1], [0]])
    found = compared(first, second)["b"]
    assert found["pass@1"][0] == pytest.approx(4 / 6)
    assert found["McNemar, passed"] == (0, 4, 0.125)
    assert compared(first, first)["b"]["pass@1"] == (0, 0, 0)
    with pytest.raises(ValueError, match="not over the same items"):
        compared(first, second[1:])


def test_by_tokens_goes_token_by_token():
    """The method asks boundary mode of the model, and counts its tokens."""
    asked = {}

    class Converted:
        def start(self, prompts):
            return list(prompts)

        def continue_(self, state, *, max_bytes, sampling, stop, seed):
            asked.update(mode=sampling.mode, temperature=sampling.token_temperature, stop=stop, seed=seed)
            return [b"x"] * len(state)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *args, **kwargs: None

    complete = fim.by_tokens(Converted(), temperature=0.5, count=lambda prompt, text: 7)
    assert partial(complete, max_bytes=3, stop=[b"\n"], seed=4)([b"a", b"b"]) == [fim.Said(b"x", 7)] * 2
    assert asked == {"mode": "boundary", "temperature": 0.5, "stop": (b"\n",), "seed": 4}
