"""`bytelm eval`: tasks of lm-evaluation-harness, without network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from bytelm.cli.common import Models, OptionalFile, Together, UsageError, check_models, model, table, usage


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Run tasks of lm-evaluation-harness on data of this machine (needs the extra lm-eval)."""

    models: Models
    """The folder of a model; several are an ensemble."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK [TASK ...]")]
    """Names of our tasks or of lm-eval's, or task files (YAML)."""
    data_dir: Annotated[str, tyro.conf.arg(metavar="DIR")] = "."
    """The folder in which relative paths of data in task files begin."""
    limit: int | None = None
    """Items of a task at most."""
    shots: int | None = None
    """Examples before each item (default: as the task says)."""
    batch: int = 8
    """Requests at a time."""
    context: int | None = None
    """Most bytes of a context with what follows it; longer ones lose their beginning (default: none do)."""
    out: OptionalFile = None
    """Also write the results as JSON."""
    together: Annotated[Together, tyro.conf.OmitArgPrefixes] = field(default_factory=Together)

    def run(self) -> None:
        check_models(self.models, self.together)
        if self.batch < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError("--batch and --limit must be 1 or more")
        if not self.tasks:
            raise UsageError("--tasks names no task")
        if not Path(self.data_dir).is_dir():
            raise UsageError(f"--data-dir {self.data_dir}: no such folder")
        try:
            from bytelm.evals import harness
        except ImportError as error:
            raise UsageError(f"eval needs lm-evaluation-harness: pip install lm-eval ({error})") from error
        lm = model(self.models, self.together)
        with usage(FileNotFoundError, harness.UnknownTask):
            found = harness.run(
                lm,
                self.tasks,
                Path(self.data_dir),
                limit=self.limit,
                shots=self.shots,
                batch=self.batch,
                room=self.context,
            )
        results = {task: _metrics(values) for task, values in found["results"].items()}
        counts = {task: n["effective"] for task, n in found.get("n-samples", {}).items()}
        if self.out is not None:
            record = {"models": list(self.models), "items": counts, "results": results}
            Path(self.out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        rows = [("task", "metric", "value", "standard error", "items")]
        for task, metrics in results.items():
            for name, (value, spread) in metrics.items():
                shown = "-" if spread is None else f"{spread:.4f}"
                rows.append((task, name, f"{value:.4f}", shown, str(counts.get(task, ""))))
        print(table(rows))


def _metrics(values: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """(value, standard error) by metric, from lm-eval's "metric,filter" and "metric_stderr,filter"."""
    found = {}
    for key, value in values.items():
        name, _, filtered = key.partition(",")
        if filtered and not name.endswith("_stderr") and isinstance(value, int | float):
            error = values.get(f"{name}_stderr,{filtered}")
            shown = name if filtered == "none" else f"{name} ({filtered})"
            found[shown] = float(value), error if isinstance(error, float) else None
    return found
