"""What the task files of this folder compute."""

from __future__ import annotations

from typing import Any

from bytelm.evals.chars import integer_exact_match

CHOICES = 4


def test_items(docs: Any) -> Any:
    """MBPP's test split: tasks 11 to 510 (Austin et al., arXiv 2108.07732)."""
    return docs.filter(lambda doc: 11 <= doc["task_id"] <= 510)


def with_choices(docs: Any) -> Any:
    """The test split, each with its solution among those of the three tasks after it."""
    docs = test_items(docs)
    codes = docs["code"]

    def add(doc: dict[str, Any], index: int) -> dict[str, Any]:
        choices = [codes[(index + k) % len(codes)] for k in range(CHOICES)]
        answer = doc["task_id"] % CHOICES
        return {"choices": choices[CHOICES - answer :] + choices[: CHOICES - answer], "answer": answer}

    return docs.map(add, with_indices=True)


def mbpp_prompt(doc: dict[str, Any]) -> str:
    tests = "\n".join(doc["test_list"])
    return f'"""\n{doc["text"]}\n{tests}\n"""\n'


def bits_of_code(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    ((log_p, greedy),) = results
    return {"bits_per_byte": (log_p, len(doc["code"].encode())), "greedy": float(greedy)}


def integer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"exact_match": float(integer_exact_match(int(doc["answer"]), results[0]))}
