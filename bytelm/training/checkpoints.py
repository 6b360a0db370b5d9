"""Checkpoints: parameters, optimizer, place in the data and config, together or not at all.

orbax writes each checkpoint under a temporary name, on a thread, and renames it when it is whole, so that
one cut short by a crash is never taken for one. Arrays are restored straight onto whatever mesh is asked
for. Parts are separate items, so that loading a model to use it reads its parameters only.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bytelm.parameters import Params, flat
from bytelm.training import hosts
from bytelm.training.step import TrainState

if TYPE_CHECKING:
    from bytelm.config import Checkpoints as CheckpointsConfig

# orbax tells of every phase of every save, and its threads print the errors that it raises here as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)

_ITEMS = ("params", "optimizer", "ema", "data", "config")


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, config: CheckpointsConfig | None = None):
        """With a config, opened for writing and made where missing; without, for reading."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep_last if config else None,
            keep_period=config.keep_every if config else None,
            create=config is not None,
            read_only=config is None,
        )
        self.folder = folder
        if config is not None and hosts.leads():  # what a crash left half written
            for left in folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=_ITEMS)

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last whole checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Starts to write a checkpoint of `step`; the arrays are copied before this returns.

        Raises OSError where this or the last checkpoint could not be written (a full disk).
        """
        items = {
            "params": ocp.args.StandardSave(state.params),
            "optimizer": ocp.args.StandardSave(state.optimizer),
            "data": ocp.args.JsonSave(dict(data)),
            "config": ocp.args.JsonSave(dict(config)),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        if step == self.latest():
            return
        with _writing(self.folder):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Returns when the last checkpoint is whole. Raises OSError where it could not be written."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def config(self, step: int) -> Any:
        """The config, as plain data, that the checkpoint was made with."""
        return self._read(step, {"config": ocp.args.JsonRestore()})["config"]

    def restore(self, step: int, abstract: TrainState, shardings: TrainState) -> tuple[TrainState, Any]:
        """The state, laid out as `shardings` say, and the place in the data.

        Raises OSError where the checkpoint is damaged, as the other readers here do.
        """
        target = jax.tree.map(_placed, abstract, shardings)
        items = {
            "params": ocp.args.StandardRestore(target.params),
            "optimizer": ocp.args.StandardRestore(target.optimizer),
            "data": ocp.args.JsonRestore(),
        }
        if target.ema is not None:
            items["ema"] = ocp.args.StandardRestore(target.ema)
        found = self._read(step, items)
        count = jax.device_put(jax.numpy.int32(step), shardings.step)
        state = TrainState(count, found["params"], found["optimizer"], found["ema"] if target.ema else None)
        return state, found["data"]

    def restore_last(self, abstract: TrainState, shardings: TrainState) -> tuple[TrainState, Any]:
        """The last checkpoint that can be read, as `restore` gives it.

        Those after it, which cannot, are put aside into ``damaged/`` with a warning. Raises OSError, and
        leaves all where they are, where none can be read.
        """
        unread: dict[int, OSError] = {}
        for step in reversed(self.steps()):
            wrong = None
            try:
                found = self.restore(step, abstract, shardings)
            except OSError as error:
                if "RESOURCE_EXHAUSTED" in str(error):  # it is whole; the devices are too small
                    raise
                wrong = error
            if hosts.gather(np.array([wrong is None])).all():
                if unread:
                    self._put_aside(unread, step)
                return found
            where = self.folder / str(step)
            unread[step] = wrong or OSError(f"{where}: the checkpoint cannot be read by another host")
        raise next(iter(unread.values()))

    def _put_aside(self, unread: Mapping[int, OSError], good: int) -> None:
        if hosts.leads():
            aside = self.folder / "damaged"
            aside.mkdir(exist_ok=True)
            for step, error in unread.items():
                print(f"warning: {error}; using that of step {good}", file=sys.stderr)
                shutil.rmtree(aside / str(step), ignore_errors=True)
                (self.folder / str(step)).rename(aside / str(step))
        hosts.meet("damaged checkpoints put aside")
        self._manager.reload()

    def params(self, step: int, abstract: Params, shardings: Params) -> Params:
        """The parameters to use a model with: the averaged ones where the run kept them."""
        target = jax.tree.map(_placed, abstract, shardings)
        item = "ema" if (self.folder / str(step) / "ema").is_dir() else "params"
        return self._read(step, {item: ocp.args.StandardRestore(target)})[item]

    def _read(self, step: int, items: Mapping[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and its storage raise many kinds for a file that is not whole
            where = self.folder / str(step)
            wanted = items.get("params", items.get("ema"))
            other = wanted and _other_model(where / ("params" if "params" in items else "ema"), wanted.item)
            raise OSError(f"{where}: the checkpoint cannot be read ({other or _cause(error)})") from error

    def close(self) -> None:
        self._manager.close()


def _other_model(saved: Path, wanted: Params) -> str | None:
    """How the arrays of a checkpoint are not those of a model; None where they are, or cannot be known."""
    try:
        with ocp.StandardCheckpointer() as reader:
            there = flat(reader.metadata(saved).item_metadata.tree)
    except Exception:  # what is wrong with it is another error's to say
        return None
    shapes, expected = ({name: tuple(x.shape) for name, x in of.items()} for of in (there, flat(wanted)))
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            has, wants = (str(list(of[name])) if name in of else "none" for of in (shapes, expected))
            return f"of another model: {name} is {has} there, {wants} in the model of its config"
    return None


def _placed(x: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


class _writing:
    """Turns whatever goes wrong in writing into an OSError that says what to do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise OSError(
                f"{self.folder}: the checkpoint could not be written ({_cause(error)}); "
                "the one before is whole. Make room or choose another --workdir, and start again"
            ) from error


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) < 300 else f"... {lines[0][-200:]}"  # what went wrong stands last
