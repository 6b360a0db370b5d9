"""CharBench's four tasks, made from any list of words (Uzan and Pinter, arXiv 2508.02591).

Words have 4 to 10 letters. Asked are how many different letters a word has, how often a letter stands in it,
and where a letter stands first and last, counted from 0; the metric is exact match of the integer. The
wording of the questions is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

import numpy as np

Task = Literal["count_unique", "count_letter", "first_index", "last_index"]
TASKS: tuple[Task, ...] = get_args(Task)
_ASKED: dict[Task, str] = {
    "count_unique": 'How many different letters are in "{word}"?',
    "count_letter": 'How many times is the letter "{letter}" in "{word}"?',
    "first_index": 'Counting from 0, where is the first "{letter}" in "{word}"?',
    "last_index": 'Counting from 0, where is the last "{letter}" in "{word}"?',
}


class Question(TypedDict):
    task: str
    word: str
    letter: str  # empty where none is asked for
    question: str
    answer: int


def usable(words: Sequence[str]) -> list[str]:
    """Those of 4 to 10 letters a-z, lower-cased, each once, sorted."""
    return sorted({w for w in map(str.lower, words) if re.fullmatch("[a-z]{4,10}", w)})


def held_out(word: str, share: float) -> bool:
    """Whether a word is for testing only: the same in every list and run."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") < share * 2**64


def question(task: Task, word: str, letter: str) -> Question:
    """A question and its answer. ValueError for a letter that is not in the word."""
    if letter not in word or len(letter) != 1:
        raise ValueError(f"{letter!r} is no letter of {word!r}")
    answers = {
        "count_unique": len(set(word)),
        "count_letter": word.count(letter),
        "first_index": word.index(letter),
        "last_index": word.rindex(letter),
    }
    asked = _ASKED[task].format(word=word, letter=letter)
    letter = "" if task == "count_unique" else letter
    return {"task": task, "word": word, "letter": letter, "question": asked, "answer": answers[task]}


def questions(words: Sequence[str], task: Task, count: int, seed: int = 0) -> list[Question]:
    """`count` questions on different words, the letter drawn from the different ones of the word.

    Raises ValueError for fewer words than `count`.
    """
    if count > len(words):
        raise ValueError(f"{count} questions asked for, of {len(words)} words of 4 to 10 letters")
    random = np.random.default_rng([seed, TASKS.index(task)])
    chosen = [words[i] for i in random.permutation(len(words))[:count]]
    return [question(task, word, str(random.choice(sorted(set(word))))) for word in chosen]


def as_text(questions: Sequence[Question]) -> str:
    """Questions with their answers, a line each: training text in the form that the tasks ask in."""
    return "".join(f"{q['question']} {q['answer']}\n" for q in questions)


def integer_exact_match(answer: int, completion: str) -> bool:
    """Whether the first integer of a completion is the answer; none is wrong."""
    found = re.search(r"-?\d+", completion)
    return found is not None and int(found[0]) == answer
