"""A path -> a `ByteLM`: today a run of this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bytelm.lm import ByteLM

if TYPE_CHECKING:
    from bytelm.config import Config


def load(
    path: str | Path, *, step: int | None = None, dtype: Literal["float32", "bfloat16"] | None = None
) -> ByteLM:
    """The model in folder `path`.

    Args:
      path: a run of ``train.py``: its last whole checkpoint is loaded.
      step: another of its checkpoints.
      dtype: "float32" or "bfloat16" for the computation; None: as in training.

    Raises FileNotFoundError where there is no such folder or no checkpoint in it, ValueError where the
    folder is not a model's. Nothing in the folder is executed.
    """
    import dataclasses

    import jax

    from bytelm import layers, models, sharding
    from bytelm.trained import TrainedLM
    from bytelm.training.checkpoints import Checkpoints

    config, folder, step = _open(Path(path), step)
    model_config = config.model if dtype is None else dataclasses.replace(config.model, dtype=dtype)
    model = jax.eval_shape(lambda: models.build(model_config, jax.random.key(0)))
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    abstract = layers.params_of(model)
    checkpoints = Checkpoints(folder)
    whole = jax.tree.map(lambda _: sharding.named(mesh), abstract)
    params = checkpoints.params(step, abstract, whole)
    checkpoints.close()
    return TrainedLM(model, params, config.data.row)


def describe(path: str | Path) -> dict[str, Any]:
    """What is in a model's folder, for people; parameters are counted, not read. Errors as `load`."""
    import math

    import jax

    from bytelm import layers, models

    config, _, step = _open(Path(path), None)
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    flat = jax.tree_util.tree_flatten_with_path(layers.params_of(model))[0]
    by_name = {"/".join(str(k.key) for k in keys): math.prod(x.shape) for keys, x in flat}
    parameters = sum(by_name.values())
    tables = sum(size for name, size in by_name.items() if name in ("table", "head"))
    source = config.data.source
    return {
        "family": type(config.model).__name__.removesuffix("Config"),
        "parameters": parameters,
        "of these, tables of symbols": tables,
        "memory, float32": f"{parameters * 4 / 1e6:,.1f} MB",
        "FLOPs a byte, forward": f"{models.flops(config.model, config.data.row) / 1e6:,.2f} M",
        "context": f"{config.data.row} bytes; longer texts in windows that overlap by {config.data.row // 2}",
        "trained on": type(source).__name__,
        "checkpoint": f"step {step} of {config.training.steps}",
        "tokenizer": "none: bytes",
    }


def _open(path: Path, step: int | None) -> tuple[Config, Path, int]:
    """A run's config, its folder of checkpoints, and the step to load."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if not (path / "config.json").is_file() or not (path / "checkpoints").is_dir():
        raise ValueError(
            f"{path}: not a run of this project: it has no config.json and checkpoints/; "
            "name the folder that train.py printed"
        )
    from bytelm import config
    from bytelm.training.checkpoints import Checkpoints

    read = config.read(path / "config.json")
    checkpoints = Checkpoints(path / "checkpoints")
    there = checkpoints.steps()
    checkpoints.close()
    if not there:
        raise FileNotFoundError(f"{path}: no whole checkpoint in it yet")
    if step is not None and step not in there:
        raise FileNotFoundError(
            f"{path}: no checkpoint of step {step}; there are {', '.join(map(str, there))}"
        )
    return read, path / "checkpoints", there[-1] if step is None else step
