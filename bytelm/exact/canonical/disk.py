"""Arrays kept on disk between runs: plain data, safe against other writers, and never trusted.

They lie in the folder BYTELM_CACHE names, else in `bytelm` under XDG_CACHE_HOME or ~/.cache. What cannot be
read is made anew, and what cannot be written is not kept.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def folder() -> Path:
    """Where arrays are kept."""
    if named := os.environ.get("BYTELM_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bytelm"


def kept(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make` gives, from disk if they are there. `key` names all that they depend on.

    A key is a file name: letters, digits, "-" and "_".
    """
    try:
        path = folder() / f"{key}.npz"
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever renames last wins; readers see a whole file or none.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except (OSError, RuntimeError):
        pass
    return arrays
