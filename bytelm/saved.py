"""A byte model as a folder of two files: config.json, the run's config, and model.safetensors.

Tensors bear the names of parameters, ``blocks/query``, float32, layers stacked. Reading executes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytelm.parameters import Params, flat, nested

if TYPE_CHECKING:
    from bytelm.config import Config

WEIGHTS = "model.safetensors"


def is_saved(folder: Path) -> bool:
    """Whether `save` wrote this folder: one with weights and a config of this project."""
    try:
        described = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return (folder / WEIGHTS).is_file() and isinstance(described, dict) and described.get("type") == "Config"


def save(folder: Path, config: Config, params: Params) -> None:
    """Writes the two files, each whole or not at all."""
    from safetensors.numpy import save_file

    from bytelm import config as configs

    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WEIGHTS + ".part")
    arrays = {name: np.ascontiguousarray(x) for name, x in flat(params).items()}
    save_file(arrays, part, metadata={"format": "bytelm"})
    part.replace(folder / WEIGHTS)
    text = json.dumps(configs.to_dict(config), indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def read(folder: Path, config: Config, abstract: Params) -> Params:
    """The parameters in `folder`, numpy arrays in the shape of `abstract`.

    Raises ValueError for a file that is no safetensors or cut short, and naming the first tensor that is
    missing, not asked for, or of another shape or type.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    wanted = flat(abstract)
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{path}: no tensor {missing[0]!r}, which a {type(config.model).__name__} has")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path}: tensor {extra[0]!r}, which a {type(config.model).__name__} has not")
    for name, x in wanted.items():
        if (found[name].shape, found[name].dtype) != (x.shape, x.dtype):
            there = f"{found[name].dtype}{list(found[name].shape)}"
            raise ValueError(f"{path}: {name} is {there}, not {x.dtype}{list(x.shape)}")
    return nested(found)
