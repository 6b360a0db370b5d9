"""`bytelm info`: what is in a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from bytelm.cli.common import usage


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a model is: its parameters, memory, family, and what it can read."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The folder of a model."""

    def run(self) -> None:
        from bytelm.load import describe

        with usage(FileNotFoundError, NotADirectoryError, ValueError):
            facts = describe(self.model)
        for name, value in facts.items():
            shown = f"{value:,}" if type(value) is int else str(value)
            print(f"{name:<{max(map(len, facts))}}  {shown}")
