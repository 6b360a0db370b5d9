"""The figures of runs, from what they wrote, and over seeds."""

from __future__ import annotations

import json
import math
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import next_word as words

from bytelm import config as configs
from bytelm import models
from bytelm.config import Config
from bytelm.data import eval_rows
from bytelm.evals.next_word import Share, mean_of
from bytelm.evals.word_use import word_use
from bytelm.models import cost

HELD_OUT = "eval/bits_per_byte"


def flops_of_a_step(config: Config) -> float:
    """Of training: three times the forward pass over all symbols, whatever bytes each stands for."""
    return 3 * models.flops(config.model, config.data.row) * config.data.row * config.training.rows


# ---- figures of a run ----------------------------------------------------------------------------------


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def bytes_of(lines: list[dict[str, Any]]) -> list[float]:
    """Bytes read up to each line. After a restart, what an earlier process read since its last line is
    estimated by its mean a step."""
    steps = [b["step"] - a["step"] for a, b in zip([{"step": 0}, *lines], lines, strict=False)]
    first = _firsts(lines)
    whole = [i for i, is_first in enumerate(first) if not is_first or i == 0]
    mean = sum(lines[i]["bytes"] for i in whole) / sum(steps[i] for i in whole)
    each = [mean * steps[i] if first[i] and i else line["bytes"] for i, line in enumerate(lines)]
    return [sum(each[: i + 1]) for i in range(len(each))]


def seconds_of(lines: list[dict[str, Any]]) -> list[float]:
    """Seconds of training up to each line, without evaluation, checkpoints and compilation.

    Compilation falls into the first line of a process; what that line covers is taken at the median speed of
    the others.
    """
    total, first = bytes_of(lines), _firsts(lines)
    speeds = [line["bytes_per_second"] for line, is_first in zip(lines, first, strict=True) if not is_first]
    median = statistics.median(speeds or [line["bytes_per_second"] for line in lines])
    found, before, seconds = [], 0.0, 0.0
    for line, upto, is_first in zip(lines, total, first, strict=True):
        seconds += (upto - before) / (median if is_first else line["bytes_per_second"])
        before = upto
        found.append(seconds)
    return found


def _firsts(lines: list[dict[str, Any]]) -> list[bool]:
    """Which lines are the first of a process: where its clock begins again."""
    clocks = [math.inf, *(line["seconds"] for line in lines)]
    return [after < before for before, after in pairwise(clocks)]


def read_run(run: Any, asked: dict[str, Any] | None, a_step_takes: float | None = None) -> dict[str, Any]:
    """All figures of a finished `Run`; `words` is a `NextWord`, or None if not asked for.

    a_step_takes: seconds, where they were measured before the runs. The curve and the speed are by these, so
    that other work on the machine meanwhile does not count; `seconds` is what really passed.
    """
    # The config as the run resolved it: a tokenized one learns the size of its vocabulary.
    lines, config = lines_of(run.folder), configs.read(run.folder / "config.json")
    last, total, seconds = lines[-1], bytes_of(lines), seconds_of(lines)
    a_step, sizes = flops_of_a_step(config), cost.parameters(config.model)
    clock = seconds if a_step_takes is None else [line["step"] * a_step_takes for line in lines]
    curve = [
        {
            "step": x["step"],
            "bytes": b,
            "flops": a_step * x["step"],
            "seconds": s,
            "bits_per_byte": x[HELD_OUT],
        }
        for x, b, s in zip(lines, total, clock, strict=True)
        if HELD_OUT in x
    ]
    return {
        **{"config": run.spec, "budget": run.budget, "seed": run.seed, "folder": str(run.folder)},
        **{"parameters": sizes.total, "parameters_without_tables": sizes.body, "row": config.data.row},
        **{"steps": last["step"], "bytes": total[-1], "seconds": seconds[-1]},
        **{"flops": a_step * last["step"], "flops_a_byte": a_step * last["step"] / total[-1]},
        **{"bytes_per_second": total[-1] / clock[-1], "bits_per_byte": last[HELD_OUT]},
        "standard_error_documents": last["eval/standard_error"],
        **{"eval_bytes": last["eval/bytes"], "eval_documents": last["eval/documents"]},
        "canonical": "eval/canonical_tokens_bits_per_byte" in last,
        "word_accuracy": last.get("eval/word_accuracy"),
        "lost_share": last.get("eval/lost_share", 0.0),
        "word_use": _word_use(config),
        "embedding_parameters": cost.embedding_parameters(config.model),
        "vocabulary_parameters": getattr(config.model, "vocab_size", 0) * config.model.width,
        "curve": curve,
        "versions": json.loads((run.folder / "versions.json").read_text()),
        "words": asked and words.read(run.folder / words.FILE, asked),
    }


def _word_use(config: Config) -> dict[str, Any] | None:
    """Of a model that pools words by a rule: how it uses the held-out rows. None for others."""
    rule, room = getattr(config.model, "boundaries", None), getattr(config.model, "words", None)
    if rule is None or room is None:
        return None
    where = config.evaluation
    source = config.data.source.open(where.split)
    batches = eval_rows(source, rows=where.rows, length=config.data.row, max_bytes=where.final_max_bytes)
    return word_use(rule, batches, room)._asdict()


# ---- over seeds ----------------------------------------------------------------------------------------


def summaries(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of each config and budget as one, in the order of the runs, budgets first."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for run in found:
        groups.setdefault((run["budget"], run["config"]), []).append(run)
    return [_summary(group) for _, group in sorted(groups.items(), key=lambda item: item[0][0])]


def _summary(group: list[dict[str, Any]]) -> dict[str, Any]:
    one, bits = group[0], [run["bits_per_byte"] for run in group]
    same = ("config", "budget", "parameters", "parameters_without_tables", "row", "steps", "flops")
    same += ("canonical", "embedding_parameters", "vocabulary_parameters", "word_use")
    mean = ("flops_a_byte", "bytes", "seconds", "bytes_per_second", "eval_bytes")
    errors = [run["standard_error_documents"] for run in group if run["standard_error_documents"] is not None]
    right = [run["word_accuracy"] for run in group if run["word_accuracy"] is not None]
    asked = [run["words"] for run in group if run["words"] is not None]
    return {
        **{name: one[name] for name in same},
        "seeds": [run["seed"] for run in group],
        **{name: statistics.fmean(run[name] for run in group) for name in mean},
        "bits_per_byte": statistics.fmean(bits),
        "standard_error_seeds": _error(bits),
        "word_accuracy": statistics.fmean(right) if right else None,
        "word_accuracy_error": _error(right),
        "standard_error_documents": statistics.fmean(errors) if errors else None,
        "lost_share": max(run["lost_share"] for run in group),
        "words": mean_of(asked) if asked else None,
    }


def _error(values: list[float]) -> float | None:
    """The standard error of their mean, where there are several."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def gains(summed: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[Share]]]:
    """Of each config but the first, its next-word accuracy less the first's at the same budget."""
    found, base = [], {}
    for summary in summed:
        baseline = base.setdefault(summary["budget"], summary)
        if summary is not baseline and summary["words"] is not None:
            found.append((summary, summary["words"].gain(baseline["words"])))
    return found
