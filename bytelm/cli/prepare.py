"""`bytelm prepare`: turns documents into a data set for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from bytelm.cli.common import table, usage
from bytelm.cli.sources import FromSource


@dataclass(frozen=True, kw_only=True)
class Prepare(FromSource):
    """Write documents as a TFDS data set of array_record files, for corpora larger than memory.

    They come from files, folders and globs, or from --stdlib, or from --tfds. Prints what was written.
    """

    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder of data sets to write it in."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Its name: lower-case letters, digits and _."""
    max_document: int | None = None
    """Cut training documents into ones of at most so many bytes."""

    def run(self) -> None:
        self.check_source()
        from bytelm.data.prepare import prepare

        with usage(ValueError, FileNotFoundError, FileExistsError):
            counts = prepare(self.source(), self.out, name=self.name, max_document=self.max_document)
        rows = [("split", "documents", "bytes")]
        rows += [(split, f"{n.documents:,}", f"{n.bytes:,}") for split, n in counts.items()]
        print(table(rows))
