"""`bytelm words`: tables and JSON of how long words are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import commands
import pytest

from bytelm import words


@pytest.fixture
def run(capsys):
    def run(*args):
        code, out, err = commands.bytelm(capsys, "words", *args)
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def files(tmp_path):
    for name, data in {"a": b"aa bb cc dd", "b": b"\xff\x00" * 500, "empty": b""}.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in ("a", "b", "empty")]


def test_words_prints_a_table(run, files):
    done = run(*files, "--rules", "runs", "byte")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == [
        "rule",
        "file",
        "bytes",
        "words",
        "bytes",
        "a",
        "word",
        "p50",
        "p99",
        "max",
        "premium",
    ]
    assert lines[1] == ["runs", str(files[0]), "11", "4", "2.75", "3", "3", "3", "1.00"]
    assert lines[3] == ["runs", str(files[2]), "0", "0", "-", "-", "-", "-", "0.00"]
    assert lines[5] == ["byte", str(files[1]), "1,000", "1,000", "1.00", "1", "1", "1", "90.91"]
    assert len(lines) == 7
    assert len({len(line) for line in done.out.splitlines()}) == 1
    assert "premium" not in run(files[0]).out


def test_words_prints_json(run, files):
    found = json.loads(run(files[2], files[0], "--json", "--cap", "16").out)
    assert found["cap"] == 16
    assert list(found["rules"]) == list(words.RULES)
    empty, a = found["rules"]["runs"]
    assert empty == {"file": str(files[2]), "bytes": 0, "words": 0, "premium": None} | dict.fromkeys(
        ("mean", "p50", "p99", "max")
    )
    assert (a["bytes"], a["words"], a["mean"], a["p50"], a["max"], a["premium"]) == (11, 4, 2.75, 3, 3, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no FILE given"),
        (["/no/such/file"], "/no/such/file"),
        ([__file__, "--cap", "3"], "the cap of rule 'runs' is 3"),
        ([__file__, "--rules", "word"], "no rule 'word'"),
    ],
)
def test_bad_usage_is_one_line_and_2(run, args, said):
    done = run(*args)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
