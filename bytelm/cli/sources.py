"""The options by which commands that read documents name their source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bytelm.cli.common import OptionalText, UsageError

if TYPE_CHECKING:
    from bytelm.data.sources import AnySource


@dataclass(frozen=True, kw_only=True)
class FromSource:
    """Documents come from files, folders and globs, or from --stdlib, or from --tfds."""

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATH ...]", help_behavior_hint="")
    ] = ()
    """Files (.jsonl and .parquet hold many documents, others one), folders, globs."""
    stdlib: bool = False
    """Take the Python files of this interpreter's standard library."""
    tfds: OptionalText = None
    """Take a TFDS data set by its name, from TFDS_DATA_DIR or ~/tensorflow_datasets."""
    field: str = "text"
    """Which field of a record is the document."""
    valid_fraction: float | None = None
    """Share of the documents held out for validation (None: the source's own)."""
    test_fraction: float | None = None
    """Share of the documents held out for tests (None: the source's own)."""

    def check_source(self) -> None:
        """Refuses bad flags before the heavy imports of data sets."""
        if sum([bool(self.paths), self.stdlib, self.tfds is not None]) != 1:
            raise UsageError("give one source: PATHs, --stdlib or --tfds NAME")
        if self._fractions() and self.tfds is not None:
            raise UsageError("--valid-fraction and --test-fraction: a --tfds data set has splits of its own")

    def source(self) -> AnySource:
        from bytelm.data.sources import Files, Stdlib, Tfds

        if self.stdlib:
            return Stdlib(**self._fractions())
        if self.tfds is not None:
            return Tfds(self.tfds, field=self.field)
        return Files(self.paths, field=self.field, **self._fractions())

    def _fractions(self) -> dict[str, Any]:
        fractions = {name: getattr(self, name) for name in ("valid_fraction", "test_fraction")}
        return {name: value for name, value in fractions.items() if value is not None}
