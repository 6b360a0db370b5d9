"""What the commands share: errors of usage, models and files from the command line, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

if TYPE_CHECKING:
    from bytelm.lm import ByteLM

Models: TypeAlias = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]", help_behavior_hint="")
]
Files: TypeAlias = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]")]
# With a constructor of its own an optional string may also be "None".
OptionalText: TypeAlias = Annotated[
    str | None, tyro.conf.arg(constructor=str, metavar="TEXT", help_behavior_hint="")
]
OptionalFile: TypeAlias = Annotated[
    str | None, tyro.conf.arg(constructor=str, metavar="FILE", help_behavior_hint="")
]


class UsageError(Exception):
    """The command was used wrongly; the message says how, in one line."""


@contextmanager
def usage(*kinds: type[Exception]) -> Iterator[None]:
    """Where errors of these kinds are the user's to mend."""
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from error


def model(paths: Sequence[str]) -> ByteLM:
    """The one model that the paths of a command line stand for."""
    check_models(paths)
    from bytelm.load import load

    with usage(FileNotFoundError, NotADirectoryError, ValueError):
        return load(paths[0])


def check_models(paths: Sequence[str]) -> None:
    """Refuses, before any work, paths that cannot be one model."""
    if not paths:
        raise UsageError("no MODEL given; name the folder of one")
    if len(paths) > 1:
        raise UsageError(f"{len(paths)} MODELs given, but this version has no ensembles; give one")


def read(path: str) -> bytes:
    """The bytes of a file that the user named."""
    with usage(OSError):
        return Path(path).read_bytes()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )
