"""`bytelm prepare`: turns documents into a data set for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bytelm.cli.common import OptionalText, UsageError, table, usage

if TYPE_CHECKING:
    from bytelm.data.sources import AnySource


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Write documents as a TFDS data set of array_record files, for corpora larger than memory.

    They come from files, folders and globs, or from --stdlib, or from --tfds. Prints what was written.
    """

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH ...]", help_behavior_hint="")
    ] = ()
    """Files (.jsonl and .parquet hold many documents, others one), folders, globs."""
    stdlib: bool = False
    """Take the Python files of this interpreter's standard library."""
    tfds: OptionalText = None
    """Take a TFDS data set by its name, from TFDS_DATA_DIR or ~/tensorflow_datasets."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder of data sets to write it in."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Its name: lower-case letters, digits and _."""
    field: str = "text"
    """Which field of a record is the document."""
    valid_fraction: float | None = None
    """Share of the documents held out for validation (None: the source's own)."""
    test_fraction: float | None = None
    """Share of the documents held out for tests (None: the source's own)."""
    max_document: int | None = None
    """Cut training documents into ones of at most so many bytes."""

    def run(self) -> None:
        # A bad flag should not wait for the heavy imports of data sets.
        chosen = [bool(self.paths), self.stdlib, self.tfds is not None]
        if sum(chosen) != 1:
            raise UsageError("give one source: PATHs, --stdlib or --tfds NAME")
        fractions = {name: getattr(self, name) for name in ("valid_fraction", "test_fraction")}
        fractions = {name: value for name, value in fractions.items() if value is not None}
        if fractions and self.tfds is not None:
            raise UsageError("--valid-fraction and --test-fraction: a --tfds data set has splits of its own")
        from bytelm.data.prepare import prepare

        with usage(ValueError, FileNotFoundError, FileExistsError):
            source = self._source(fractions)
            counts = prepare(source, self.out, name=self.name, max_document=self.max_document)
        rows = [("split", "documents", "bytes")]
        rows += [(split, f"{n.documents:,}", f"{n.bytes:,}") for split, n in counts.items()]
        print(table(rows))

    def _source(self, fractions: dict[str, Any]) -> AnySource:
        from bytelm.data.sources import Files, Stdlib, Tfds

        if self.stdlib:
            return Stdlib(**fractions)
        if self.tfds is not None:
            return Tfds(self.tfds, field=self.field)
        return Files(self.paths, field=self.field, **fractions)
