"""The door to lm-evaluation-harness (extra `lm-eval`): a `ByteLM` as its model, and its tasks run here.

The model is an `LM`, not a `TemplateLM`: that one tokenizes context and continuation apart and moves spaces
between them, the very artefact that an exact byte model is free of.

lm-eval finds no models in other packages, so its own command line knows "bytelm" after an import only:

    python -m bytelm.evals.harness --model bytelm --model_args path=FOLDER --tasks TASK

is that command line, with this import before it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from bytelm.evals import answers
from bytelm.lm import ByteLM

TASKS = Path(__file__).parent / "tasks"  # task files of ours


@register_model("bytelm")
class Harness(LM):
    """A `ByteLM` as a model of lm-evaluation-harness; see `bytelm.evals.answers` for what it answers.

    Args:
      path: a folder that `bytelm.load` reads; several, joined by ";", are an ensemble.
      rule, weights: of the ensemble; weights are joined by ";" too. One number is one weight.
      batch_size: requests at a time; lm-eval's own command line says 1 unless --batch_size is given.
      max_gen_toks: *bytes* of a completion at most, where a task does not say.
      max_length: *bytes* of a context and what follows it; longer contexts lose their beginning. None:
        nothing is cut, and a model may refuse what is too long for it.
      lm: a ByteLM, in place of a path.
    """

    def __init__(
        self,
        path: str | None = None,
        rule: str = "mean",
        weights: str | float | None = None,
        batch_size: int | str = 8,
        max_gen_toks: int = answers.MAX_BYTES,
        max_length: int | None = None,
        lm: ByteLM | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if (path is None) == (lm is None):
            raise ValueError("give the model: path=FOLDER, or path=FOLDER;FOLDER for an ensemble")
        if device is not None:
            raise ValueError(f"device {device}: jax chooses it; set JAX_PLATFORMS=cpu, cuda or tpu")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size must be a number, 1 or more, not {batch_size!r}")
        if path is not None:
            from bytelm.ensemble import Ensemble
            from bytelm.load import load

            members = [load(folder) for folder in str(path).split(";")]
            weight = None if weights is None else [float(w) for w in str(weights).split(";")]
            alone = len(members) == 1 and weight is None
            lm = members[0] if alone else Ensemble(members, rule, weight)  # type: ignore[arg-type]
        self.lm, self.batch, self.max_bytes = lm, int(batch_size), int(max_gen_toks)
        self.room = None if max_length is None else int(max_length)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context), and whether it is byte-greedy."""

        def score(lm: ByteLM, given: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            return answers.loglikelihoods(lm, given, room=self.room, **kwargs)

        return self._answer("loglikelihood", score, requests, disable_tqdm, whole=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of the bytes of each document."""
        return self._answer("loglikelihood_rolling", answers.documents, requests, disable_tqdm, whole=False)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Completions; `max_gen_toks` counts bytes."""

        def complete(lm: ByteLM, given: Any, **kwargs: Any) -> list[str]:
            return answers.completions(lm, given, max_bytes=self.max_bytes, room=self.room, **kwargs)

        return self._answer("generate_until", complete, requests, disable_tqdm, whole=True)

    def _answer(self, kind: str, ask: Any, requests: list[Any], quiet: bool, *, whole: bool) -> list[Any]:
        given = [request.args if whole else request.args[0] for request in requests]
        # disable=None: no bar unless standard error is a terminal.
        with tqdm(total=len(given), desc=kind, disable=True if quiet else None) as bar:
            found = ask(self.lm, given, batch=self.batch, progress=bar.update)
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return found


def run(
    lm: ByteLM,
    tasks: Sequence[str],
    data: Path,
    *,
    limit: int | None = None,
    shots: int | None = None,
    batch: int = 8,
    room: int | None = None,
) -> dict[str, Any]:
    """Runs tasks without network and returns lm-eval's results.

    Args:
      tasks: names of tasks of this package (`TASKS`), of lm-eval, or paths of task files.
      data: the folder that relative paths of data in a task file begin in.
      limit: items of a task at most.
      shots: examples before each item; None: as the task says.
      batch, room: requests at a time, and `max_length` of `Harness`.

    Raises FileNotFoundError where data are not on this machine, ValueError for an unknown task.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = [str(Path(task).resolve()) if Path(task).is_file() else task for task in tasks]
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    named = [task for task in tasks if not Path(task).is_absolute()]
    if any(name not in manager.all_tasks for name in named):
        manager = TaskManager(include_path=str(TASKS))  # reads thousands of files
    if unknown := [name for name in named if name not in manager.all_tasks]:
        raise ValueError(f"no task {unknown[0]!r}: neither here ({TASKS}) nor in lm-eval, nor a file")
    with _offline(), contextlib.chdir(data):
        for task in tasks:
            _check_data(manager, task)
        return simple_evaluate(
            Harness(lm=lm, batch_size=batch, max_length=room),
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=shots,
            bootstrap_iters=1000,
            log_samples=False,
        )


def _check_data(manager: Any, task: str) -> None:
    """Loads a task's data, from this machine only."""
    try:
        manager.load([task])
    except (FileNotFoundError, ConnectionError, ImportError) as error:
        raise FileNotFoundError(
            f"task {task}: its data are not on this machine, and tasks are run without network; give "
            f"the folder that holds them by --data-dir, or fill the cache of Hugging Face ({error})"
        ) from error


@contextlib.contextmanager
def _offline() -> Any:
    """Hugging Face's libraries refuse the network at once, rather than after many attempts."""
    import datasets.config
    import huggingface_hub.constants

    places = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    ]
    before = [(place, name, getattr(place, name)) for place, name in places if hasattr(place, name)]
    pool = os.environ.get("LMEVAL_DISABLE_MULTIPROC")
    os.environ["LMEVAL_DISABLE_MULTIPROC"] = "1"  # a fork of a process that uses jax may hang
    try:
        for place, name, _ in before:
            setattr(place, name, True)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
        if pool is None:
            del os.environ["LMEVAL_DISABLE_MULTIPROC"]
        else:
            os.environ["LMEVAL_DISABLE_MULTIPROC"] = pool


def main() -> None:
    """lm-eval's own command line, which knows the model "bytelm" here."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    # As a script this module has another name; what lm-eval registers must have the right one.
    from bytelm.evals import harness

    harness.main()
