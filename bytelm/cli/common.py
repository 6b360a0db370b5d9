"""What the commands share: errors of usage, models and files from the command line, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import tyro

from bytelm.ensemble import Rule

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


@dataclass(frozen=True, kw_only=True)
class Together:
    """How several MODELs are one (see `bytelm.ensemble`)."""

    rule: Rule = "mean"
    """How several MODELs are combined."""
    weights: Annotated[tuple[float, ...], tyro.conf.arg(metavar="W [W ...]", help_behavior_hint="")] = ()
    """One a MODEL (default: all alike)."""
    rate: float = 0.01
    """Of --rule switch: the share of the weight that is dealt out anew after each byte."""
    alpha: float = 1.0
    """Of --rule proxy, which takes base, expert and anti-expert: how far to go from the base."""

    def of(self, members: Sequence[ByteLM]) -> ByteLM:
        from bytelm.ensemble import Ensemble

        return Ensemble(members, self.rule, self.weights or None, rate=self.rate, alpha=self.alpha)


ALONE = Together()


def model(paths: Sequence[str], together: Together = ALONE) -> ByteLM:
    """The model that the paths of a command line stand for: the one, or an ensemble of several."""
    check_models(paths, together)
    from bytelm.load import load

    with usage(FileNotFoundError, NotADirectoryError, ValueError):
        members = [load(path) for path in paths]
        return members[0] if len(members) == 1 else together.of(members)


def check_models(paths: Sequence[str], together: Together = ALONE) -> None:
    """Refuses, before any work, paths that cannot be a model, and weights that do not fit them."""
    if not paths:
        raise UsageError("no MODEL given; name the folder of one")
    if len(paths) == 1 and together != ALONE:
        raise UsageError("--rule, --weights, --rate and --alpha are for several MODELs, and one is given")
    if len(paths) > 1:
        with usage(ValueError):
            together.of([None] * len(paths))  # type: ignore[list-item]


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
