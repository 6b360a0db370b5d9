"""The default source: Python code of the running interpreter's standard library. Nothing to download."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from bytelm.data.documents import (
    Table,
    TableBuilder,
    check_fractions,
    check_split,
    hashed_splits,
    split_of_digest,
)

NOT_STDLIB = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Stdlib:
    """All `.py` files of a standard library, one document a file, in memory (11 to 35 MB).

    Files are split by a hash of their content, so copies of a file never lie in two splits; copies and
    empty files are dropped and counted. The texts depend on the Python version, so compare figures on
    one version only. With the default fractions valid and test have each more than 1 MB, also on
    distributions that ship the library without its tests.
    """

    valid_fraction: float = 0.12
    test_fraction: float = 0.08
    folder: str | None = None
    """Another interpreter's library, e.g. /usr/lib/python3.11; None: the running one's."""

    def __post_init__(self) -> None:
        check_fractions(self.valid_fraction, self.test_fraction, "Stdlib")

    @property
    def splits(self) -> tuple[str, ...]:
        return hashed_splits(self.valid_fraction, self.test_fraction)

    def open(self, split: str) -> Table:
        """Reads a split into memory. Raises ValueError for a bad split, FileNotFoundError without folder."""
        check_split(split, self.splits, "Stdlib")
        folder = Path(self.folder or sysconfig.get_path("stdlib"))
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Stdlib: no folder {folder}; set `folder` to where Python keeps its standard library"
            )
        builder, seen = TableBuilder(), set[bytes]()
        for path in python_files(folder):
            data = path.read_bytes()
            digest = hashlib.sha256(data).digest()
            if not data:
                builder.skip("empty document")
            elif digest in seen:
                builder.skip("duplicate")
            elif split_of_digest(digest, self.valid_fraction, self.test_fraction) == split:
                builder.add(data)
            seen.add(digest)
        version = self.folder or f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return builder.build(
            f"Stdlib({version}) {split}", f"is {folder} a standard library with its sources (.py)?"
        )


def python_files(folder: Path) -> list[Path]:
    """Every `.py` file below the folder, third-party packages left out, sorted by relative path."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_STDLIB]
        found += [Path(root, name) for name in files if name.endswith(".py")]
    return sorted((path for path in found if path.is_file()), key=lambda p: p.relative_to(folder).as_posix())
