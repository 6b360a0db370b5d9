"""CharBench's questions against answers by hand and by other means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bytelm.evals.chars import TASKS, as_text, held_out, integer_exact_match, question, questions, usable

WORDS = usable(
    ["banana", "letters", "the", "Mississippi", "apple", "Kiwi", "kiwi", "naïve", "tree's", "orange"]
)


def test_usable():
    assert WORDS == ["apple", "banana", "kiwi", "letters", "orange"]


def test_answers_by_hand():
    answers = [question(task, "banana", "a")["answer"] for task in TASKS]
    assert answers == [3, 3, 1, 5]
    assert '"a" in "banana"' in question("last_index", "banana", "a")["question"]
    assert question("count_unique", "banana", "a")["letter"] == ""
    for letter in ("z", "", "an"):
        with pytest.raises(ValueError, match="no letter of"):
            question("count_letter", "banana", letter)


@pytest.mark.parametrize("task", TASKS)
def test_questions(task):
    asked = questions(WORDS, task, 5, seed=3)
    assert asked == questions(WORDS, task, 5, seed=3) != questions(WORDS, task, 5, seed=4)
    assert sorted(q["word"] for q in asked) == WORDS
    for q in asked:
        if task != "count_unique":
            places = [i for i, c in enumerate(q["word"]) if c == q["letter"]]
            expected = {"count_letter": len(places), "first_index": places[0], "last_index": places[-1]}
            assert q["answer"] == expected[task]
        assert as_text([q]) == f"{q['question']} {q['answer']}\n"
    with pytest.raises(ValueError, match="of 5 words"):
        questions(WORDS, task, 6)


def test_metric():
    right = ["3", " 3", "3 letters", "is 3.", "03"]
    wrong = ["", "three", "13", "-3", "2 or 3"]
    assert [integer_exact_match(3, text) for text in right + wrong] == [True] * 5 + [False] * 5


def test_the_script(tmp_path):
    (tmp_path / "words.txt").write_text(" ".join(f"{a}{b}cde" for a in "abcdefgh" for b in "xyzuvw"))
    script = Path(__file__).parents[2] / "scripts" / "make_charbench.py"
    args = [sys.executable, script, tmp_path / "words.txt", "--out", tmp_path / "out", "--share", "0.3"]
    subprocess.run(args, check=True, capture_output=True)
    trained = (tmp_path / "out" / "train.txt").read_text()
    for task in TASKS:
        items = [json.loads(line) for line in (tmp_path / "out" / f"{task}.jsonl").read_text().splitlines()]
        assert items
        assert all(held_out(q["word"], 0.3) and f'"{q["word"]}"' not in trained for q in items)
        examples = (tmp_path / "out" / f"examples_{task}.jsonl").read_text().splitlines()
        assert len(examples) == 8
        assert not any(held_out(json.loads(line)["word"], 0.3) for line in examples)
