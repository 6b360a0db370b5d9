"""What stands around a run: its command line, its folder, and where it starts from."""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from bytelm import config as configs_of
from bytelm.config import Config
from bytelm.training import hosts, metrics
from bytelm.training.checkpoints import Checkpoints
from bytelm.training.step import TrainState


@dataclass(frozen=True)
class Run:
    """Trains a byte model. The first argument may name a file in configs/; flags change its fields."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: str | None = None
    """The run's folder (default: runs/CONFIG). If it holds a checkpoint, the run goes on from it."""
    resume: str | None = None
    """Another run to go on from: its parameters, optimizer and place in the data."""
    init_from: str | None = None
    """Another run whose parameters to begin with, at step 0."""
    hosts: hosts.Hosts = dataclasses.field(default_factory=hosts.Hosts)
    """The processes that train together. Not part of the config: it may change from start to start."""


@contextmanager
def usage(*kinds: type[Exception]) -> Iterator[None]:
    """Where errors of these kinds are the user's to mend: exits with status 2 and the message."""
    try:
        yield
    except kinds as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def guarded(main: Callable[[], None]) -> None:
    """Runs `main`. What the world does to a run (a full disk, a loss that is not finite) ends it with status
    1 and a message; a traceback is for what is wrong in the program. Of several processes the one that fails
    leaves at once, and the others learn of it."""
    try:
        try:
            main()
        except BaseException as error:
            if not jax.distributed.is_initialized():
                raise
            hosts.leave(error)
    except (OSError, FloatingPointError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit("train.py: stopped at once; the last checkpoint is whole") from None


def parse(args: list[str], configs: Path) -> tuple[Run, Config]:
    """The command line. Exits with status 2 for bad usage."""
    name = args[0] if args and not args[0].startswith("-") else "default"
    rest = args[1:] if args and not args[0].startswith("-") else args
    with usage(ValueError, TypeError):
        base = read_config(name, configs)
        run = tyro.cli(
            Run, args=rest, default=Run(config=base), prog="train.py", config=(tyro.conf.AvoidSubcommands,)
        )
    stem = Path(name).stem
    return dataclasses.replace(run, workdir=run.workdir or f"runs/{stem}"), run.config


def read_config(name: str, configs: Path) -> Config:
    """`config` of the file `name` in folder `configs`, or of the file at path `name`."""
    path = next((p for p in (Path(name), configs / f"{name}.py", configs / name) if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in configs.glob("*.py")))
        raise ValueError(f"no config {name!r} in {configs}; there are: {known}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "config", None), Config):
        raise ValueError(f"{path}: assigns no `config = Config(...)`")
    return module.config


def prepare_folder(run: Run, config: Config) -> Path:
    """Makes the run's folder and writes down config and versions; checks an older config there.

    From here on the folder is this process's: a second run in it would drop the lines of the first.
    """
    assert run.workdir is not None
    folder = Path(run.workdir)
    old = folder / "config.json"
    text = json.dumps(configs_of.to_dict(config), indent=1) + "\n"
    with usage(OSError, ValueError):
        hosts.check_same("the config", text)
        if old.is_file() and any(p.name.isdigit() for p in (folder / "checkpoints").glob("*")):
            configs_of.check_same(configs_of.read(old), config, folder)
        if hosts.leads():
            folder.mkdir(parents=True, exist_ok=True)
            _hold(folder)
            metrics.write_whole(old, text)
            metrics.write_whole(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    return folder


_held: dict[Path, int] = {}  # folders of this process's runs, opened


def _hold(folder: Path) -> None:
    """Keeps other processes out of a run's folder until this one ends. ValueError where one is in it."""
    folder = folder.resolve()
    if folder in _held:
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise ValueError(
            f"{folder}: another process trains in it; wait, or choose another --workdir"
        ) from None
    except OSError:
        pass  # a file system that cannot lock
    _held[folder] = opened


def versions() -> dict[str, str]:
    """Versions of what computes, and on what."""
    names = ("bytelm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {"python": platform.python_version(), **found, "devices": devices, "platform": platform.platform()}


# ---- where a run starts from ---------------------------------------------------------------------------


def restore(
    run: Run, config: Config, own: Checkpoints, abstract: TrainState, placed: TrainState
) -> tuple[TrainState | None, Any, str]:
    """State and place in the data from the run's own folder or from --resume; None for a new start."""
    if own.steps():
        state, place = own.restore_last(abstract, placed)
        step = int(state.step)
        note = f"going on from step {step} in {own.folder.parent}"
        if step >= config.training.steps:
            note = f"finished: {own.folder.parent} is at step {step}; more --training.steps take it further"
        return state, place, note
    if run.resume is None:
        return None, None, f"starting from {run.init_from}" if run.init_from else "starting from scratch"
    other, step, saved = _open(run.resume)
    configs_of.check_same(saved, config, Path(run.resume))
    found = other.restore(step, abstract, placed)
    other.close()
    return *found, f"going on from step {step} in {run.resume}"


def start_from(run: Run, state: TrainState, placed: TrainState, config: Config) -> TrainState:
    """`state` with the parameters of --init-from, where that is given."""
    if run.init_from is None:
        return state
    other, step, saved = _open(run.init_from)
    configs_of.check_same(saved, config, Path(run.init_from), weights_only=True)
    if configs_of.lends_backbone(saved, config):
        _check_tokenizer(Path(run.init_from), Path(str(run.workdir)))
        lent = other.params(step, state.params["backbone"], placed.params["backbone"])
        params = {**state.params, "backbone": lent}
    else:
        params = other.params(step, state.params, placed.params)
    other.close()
    # A copy: the step is given its state to reuse, and no buffer may be in it twice.
    return state._replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))


def _check_tokenizer(source: Path, folder: Path) -> None:
    """Raises ValueError where the tokens of a run are not those of the run that it begins from."""
    one, two = (path / "tokenizer.json" for path in (source, folder))
    if one.is_file() and one.read_bytes() != two.read_bytes():
        raise ValueError(f"{folder}: its tokens are not those of {source}; set data.tokenizer.path to {one}")


def _open(path: str) -> tuple[Checkpoints, int, Config]:
    folder = Path(path)
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(f"{path}: not a run: it has no checkpoints/")
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.latest()
    if step is None:
        raise FileNotFoundError(f"{path}: no whole checkpoint in it")
    return checkpoints, step, configs_of.from_dict(checkpoints.config(step))


def record(config: Config) -> dict[str, Any]:
    return configs_of.to_dict(config)


class StopSignal:
    """While entered, SIGINT and SIGTERM ask the run to finish its step and save; a second one stops it."""

    asked = False

    def __enter__(self) -> StopSignal:
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Profile:
    """While entered, the profiler records the steps that the config names, [first, last), into profile/."""

    def __init__(self, folder: Path, config: Config):
        self._folder, self._steps, self._on = folder / "profile", config.training.profile or (0, 0), False

    def step(self, step: int) -> None:
        """Told before each step."""
        on = self._steps[0] <= step < self._steps[1]
        if on and not self._on:
            jax.profiler.start_trace(str(self._folder))
        elif self._on and not on:
            jax.profiler.stop_trace()
        self._on = on

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            jax.profiler.stop_trace()
