"""Completing the items of benchmarks, judging what was said, and writing it down as it goes.

A method's folder holds `settings.json`, `results.jsonl` with a line an item in the items' order, and
`summary.json`. Items go in blocks whose members do not depend on what was done before, and the lines of a
block are written at once: a run that was killed and goes on writes what an uninterrupted one does, but for
`seconds`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bytelm.evals.benchmarks import Item
from bytelm.evals.prompts import Family, Fit, Order
from bytelm.evals.sandbox import Sandbox
from bytelm.evals.similarity import similarity
from bytelm.generate import generate
from bytelm.lm import ByteLM, Prompt

BLOCK = 8  # items that are completed together


class Said(NamedTuple):
    """A completion, and how many tokens the model read for it; None where it reads bytes."""

    text: bytes
    tokens: int | None


class Method(Protocol):
    """A way to complete prompts; deterministic in its arguments."""

    def __call__(
        self, prompts: Sequence[Prompt], *, max_bytes: int, stop: Sequence[bytes], seed: int
    ) -> list[Said]: ...


def by_bytes(
    lm: ByteLM,
    *,
    temperature: float,
    top_p: float | None,
    count: Callable[[Prompt, bytes], int] | None = None,
) -> Method:
    """Byte by byte, of any model; `count(prompt, completion)` tells the tokens of one that reads them."""

    def complete(prompts, *, max_bytes, stop, seed):
        texts = generate(
            lm, prompts, max_bytes=max_bytes, temperature=temperature, top_p=top_p, stop=stop, seed=seed
        )
        return _counted(prompts, texts, count)

    return complete


def by_tokens(lm: ByteLM, *, temperature: float, count: Callable[[Prompt, bytes], int]) -> Method:
    """Of a converted model, token by token after a cover of the prompt drawn from the exact posterior."""

    def complete(prompts, *, max_bytes, stop, seed):
        texts = generate(
            lm,
            prompts,
            max_bytes=max_bytes,
            mode="boundary",
            token_temperature=temperature,
            stop=stop,
            seed=seed,
        )
        return _counted(prompts, texts, count)

    return complete


def _counted(prompts, texts, count) -> list[Said]:
    return [Said(t, None if count is None else count(p, t)) for p, t in zip(prompts, texts, strict=True)]


@dataclass(frozen=True)
class Asked:
    """An item's prompt; most: bytes that the completion may have; cut: whether prefix or suffix was."""

    item: Item
    prompt: Prompt
    most: int
    cut: bool


def asked(
    items: Sequence[Item], fit: Fit, family: Family | None, order: Order | None, most: int | None = None
) -> list[Asked]:
    """The prompts of items. ValueError where an item has a suffix and the model no way to read one."""

    def form(prefix: bytes, suffix: bytes) -> Prompt:
        assert family is not None
        return family.prompt(prefix, suffix, order)

    found = []
    for item in items:
        limit = item.most if most is None else min(item.most, most)
        if item.suffix is None:
            prompt, left, cut = fit.fitted(item.prefix, b"", limit, lambda prefix, _: [prefix])
        elif family is None:
            raise ValueError(f"{item.name}: has a suffix, and the model reads none")
        else:
            prompt, left, cut = fit.fitted(item.prefix, item.suffix, limit, form)
        found.append(Asked(item, prompt, left, cut))
    return found


# ---- a run ---------------------------------------------------------------------------------------------


def evaluate(
    method: Method,
    questions: Sequence[Asked],
    folder: Path,
    settings: dict[str, Any],
    box: Sandbox,
    *,
    n: int = 1,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> list[dict[str, Any]]:
    """Completes and judges what `folder` does not hold yet, and returns all its lines.

    n: completions an item. progress: called with the number of items done. ValueError where the folder is
    of a run with other settings, or another process writes in it.
    """
    path = _opened(folder, settings)
    blocks = [questions[first : first + BLOCK] for first in range(0, len(questions), BLOCK)]
    with ThreadPoolExecutor(box.workers) as pool, path.open("a", encoding="utf-8") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process writes in it; wait, or choose another --out"
            ) from None
        done = _whole_blocks(path, questions)
        progress(len(done))

        def write(lines: list[tuple[dict[str, Any], list[Future]]]) -> None:
            for line, verdicts in lines:
                for sample, verdict in zip(line["samples"], verdicts, strict=True):
                    sample["verdict"] = verdict.result()
                done.append(line)
            text = "".join(json.dumps(line) + "\n" for line, _ in lines)
            out.write(text)  # at once: a block is there or not
            out.flush()
            progress(len(lines))

        waiting: list[tuple[dict[str, Any], list[Future]]] = []
        for number in range(len(done) // BLOCK if len(done) < len(questions) else len(blocks), len(blocks)):
            lines = _answered(method, blocks[number], number, n, seed)
            judged = [
                (line, [pool.submit(q.item.verdict, a, box.run) for a in answers])
                for q, (line, answers) in zip(blocks[number], lines, strict=True)
            ]
            write(waiting)  # one block behind, so that programs run while the model works
            waiting = judged
        write(waiting)
    return done


def _answered(
    method: Method, block: Sequence[Asked], number: int, n: int, seed: int
) -> list[tuple[dict[str, Any], list[bytes]]]:
    """The lines of a block, without verdicts, and the answers to judge."""
    said: list[list[tuple[Said, float]]] = [[] for _ in block]
    for sample in range(n):
        draw = int.from_bytes(
            hashlib.blake2b(b"%d %d %d" % (seed, number, sample), digest_size=4).digest(), "big"
        )
        for rows in _alike(block):
            began = time.monotonic()
            first = block[rows[0]]
            found = method(
                [block[i].prompt for i in rows], max_bytes=first.most, stop=first.item.stop, seed=draw
            )
            share = (time.monotonic() - began) / len(rows)
            for i, one in zip(rows, found, strict=True):
                said[i].append((one, share))
    lines = []
    for question, several in zip(block, said, strict=True):
        item = question.item
        answers = [item.answer(one.text) for one, _ in several]
        samples = [
            {
                "completion": answer.decode("utf-8", "surrogateescape"),
                "verdict": "",
                "exact": item.exact(answer),
                "similarity": round(similarity(answer, item.middle), 4),
                "bytes": len(one.text),
                "tokens": one.tokens,
                "seconds": round(seconds, 4),
            }
            for answer, (one, seconds) in zip(answers, several, strict=True)
        ]
        line = {
            "name": item.name,
            "benchmark": item.benchmark,
            "problem": item.problem or item.name,
            "cut": question.cut,
            "samples": samples,
        }
        lines.append((line, answers))
    return lines


def _alike(block: Sequence[Asked]) -> Iterator[list[int]]:
    """Rows of a block that end by the same rule: these are completed in one call."""
    groups: dict[tuple[int, tuple[bytes, ...]], list[int]] = {}
    for i, question in enumerate(block):
        groups.setdefault((question.most, question.item.stop), []).append(i)
    yield from groups.values()


# ---- its folder ----------------------------------------------------------------------------------------


def _opened(folder: Path, settings: dict[str, Any]) -> Path:
    """The file of results in a folder that is new, or of a run with the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    if path.exists():
        there = _read(path.read_bytes(), str(path))
        if other := [name for name in there if there[name] != settings.get(name)]:
            name = sorted(other)[0]
            raise ValueError(
                f"{folder} holds a run with {name} {there.get(name)!r}, not {settings.get(name)!r}; "
                "choose another --out"
            )
    else:
        part = folder / "settings.json.part"  # a kill leaves the whole file or none
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    return folder / "results.jsonl"


def _whole_blocks(path: Path, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """The lines that are there, up to the last whole block; the file is cut to them."""
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)  # what follows was being written
    if len(lines) > len(questions):
        raise ValueError(f"{path} holds {len(lines)} lines, and there are {len(questions)} items")
    count = len(lines) if len(lines) == len(questions) else len(lines) // BLOCK * BLOCK
    kept = lines[:count]
    found = [_read(line, f"{path}, line {number}") for number, line in enumerate(kept, start=1)]
    for line, question in zip(found, questions, strict=False):
        if line["name"] != question.item.name:
            raise ValueError(f"{path} holds {line['name']} where {question.item.name} belongs")
    with path.open("r+b") as file:
        file.truncate(sum(map(len, kept)))
    return found


def read_results(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and lines of a method's folder. FileNotFoundError, ValueError for what is none."""
    folder = Path(folder)
    if not (folder / "results.jsonl").is_file() or not (folder / "settings.json").is_file():
        raise FileNotFoundError(f"{folder}: no results.jsonl and settings.json: name the folder of a method")
    settings, lines = _read((folder / "settings.json").read_bytes(), str(folder / "settings.json")), []
    with (folder / "results.jsonl").open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            lines.append(_read(line, f"{folder / 'results.jsonl'}, line {number}"))
    return settings, lines


def _read(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: no JSON object")
    return found
