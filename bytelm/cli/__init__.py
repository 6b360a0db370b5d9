"""The `bytelm` command.

Results go to standard output, everything else to standard error. The exit code is 0 only when all was
done, 2 for bad usage (flags, a missing file, a folder that is no model), 1 for failures at run time, 130
after Ctrl-C. Heavy imports stay inside `run` of the commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import tyro

from bytelm.cli.common import UsageError
from bytelm.cli.eval import Eval
from bytelm.cli.export import Export
from bytelm.cli.fim import Fim
from bytelm.cli.fim_compare import FimCompare
from bytelm.cli.generate import Generate
from bytelm.cli.info import Info
from bytelm.cli.prepare import Prepare
from bytelm.cli.score import Score
from bytelm.cli.train_tokenizer import TrainTokenizer
from bytelm.cli.weights import Weights
from bytelm.cli.words import Words

Command: TypeAlias = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Fim, tyro.conf.subcommand("fim")]
    | Annotated[FimCompare, tyro.conf.subcommand("fim-compare")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[TrainTokenizer, tyro.conf.subcommand("train-tokenizer")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Words, tyro.conf.subcommand("words")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command of `args` (None: the process's own) and returns its exit code.

    What goes wrong is told in one line, the words of the error. Its traceback is shown instead where its kind
    is one that only a fault of the program has, and always with BYTELM_TRACEBACK=1 in the environment.
    """
    args = sys.argv[1:] if args is None else args
    program = " ".join(["bytelm", *args[:1]])  # what fails once it has been read is a command
    try:
        return _run(args)
    except KeyboardInterrupt:
        return _failed(program, "interrupted", 130)
    except BrokenPipeError:
        # The reader went away, as `| head` does. Python flushes once more at exit: into nothing, then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UsageError, RuntimeError, ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("BYTELM_TRACEBACK") == "1":
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        return _failed(program, f"error: {words}", 2 if isinstance(error, UsageError) else 1)


def _run(args: Sequence[str]) -> int:
    command = tyro.cli(
        Command,
        prog="bytelm",
        description="Language models over bytes.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command.run()
    sys.stdout.flush()  # here, where a closed pipe is noticed
    return 0


def _failed(program: str, message: str, code: int) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    return code
