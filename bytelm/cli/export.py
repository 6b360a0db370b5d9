"""`bytelm export`: a run as a folder that stands by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from bytelm.cli.common import usage


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's model into a folder: for transformers if it reads tokens, else safetensors and config."""

    run_: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The folder of a run."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder to write, empty or new."""
    step: int | None = None
    """Which checkpoint (None: the last)."""

    def run(self) -> None:
        from bytelm.export import export

        with usage(FileNotFoundError, NotADirectoryError, FileExistsError, ValueError):
            print(export(self.run_, self.folder, step=self.step))
