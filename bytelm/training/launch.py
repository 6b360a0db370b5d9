"""What stands around a run: its command line, its folder, where it starts from, and what it says."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from bytelm import config as configs_of
from bytelm import models
from bytelm.config import Config
from bytelm.models import TokenLMConfig
from bytelm.sharding import MeshShape
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
    """Makes the run's folder and writes down config and versions; checks an older config there."""
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
            metrics.write_whole(old, text)
            metrics.write_whole(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    return folder


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


def use_all_cores(config: Config) -> None:
    """On CPU, a device for each core that the rows can be shared among. Call before JAX has devices.

    XLA gives the operations of one device to all cores, but cuts only the large ones, and waits after each.
    Leaves alone a mesh that the config cuts, several processes, and a number of devices that was set from
    outside.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    chosen = chosen or getattr(jax.config, "jax_num_cpu_devices", -1) > 0 or jax.distributed.is_initialized()
    if _on_cpu() and not chosen and config.mesh == MeshShape():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        rows = config.training.rows // config.training.accumulate
        jax.config.update("jax_num_cpu_devices", math.gcd(cores, rows, config.evaluation.rows))


def keep_pages() -> None:
    """On CPU, lets the C library keep the memory that XLA frees after each step. Call before JAX has threads.

    Given back, it would come again as fresh pages, which the kernel must clear: a tenth of a step. A thread
    that has an arena of its own would map and unmap it, whatever the limits. Elsewhere than on glibc this
    does nothing.
    """
    if _on_cpu() and platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # <malloc.h>
        libc = ctypes.CDLL(None)
        for option, value in ((m_arena_max, 1), (m_mmap_max, 0), (m_trim_threshold, -1), (m_top_pad, 2**26)):
            libc.mallopt(option, value)


def _on_cpu() -> bool:
    """Whether JAX will run on CPU, known before it has started."""
    platforms = getattr(jax.config, "jax_platforms", None)
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and not importlib.util.find_spec("libtpu")


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


# ---- what it says --------------------------------------------------------------------------------------


def say_start(
    log: metrics.Log,
    config: Config,
    params: Any,
    mesh: Any,
    source: Any,
    held_out: Any,
    flops: float,
    note: str,
    a_target: float,
) -> None:
    """One table: parameters, mesh, batch, FLOPs, memory. `a_target`: bytes that a target stands for."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    sizes: dict[str, int] = {}
    for keys, x in flat:
        sizes[keys[0].key] = sizes.get(keys[0].key, 0) + int(np.prod(x.shape))
    total = sum(sizes.values())
    copies = 4 + (config.training.ema is not None)  # parameters, gradient, two of the optimizer's
    parts = ", ".join(f"{name} {n:,}" for name, n in sizes.items())
    batch = config.training.rows * config.data.row
    of = "bytes" if a_target == 1.0 else f"tokens, about {batch * a_target:,.0f} bytes,"
    rows = [
        ("parameters", f"{total:,} ({parts})"),
        ("mesh", ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items())),
        ("batch", f"{config.training.rows} rows x {config.data.row} = {batch:,} {of} a step"),
        ("FLOPs", f"{flops / 1e6:,.1f} M a byte of training"),
        ("memory", f"about {total * 4 * copies / 1e6:,.0f} MB for parameters and optimizer, over the mesh"),
        ("data", _described(source)),
        ("held out", _described(held_out)),
        ("start", note),
    ]
    for name, text in rows:
        log.say(f"{name:<11} {text}")


def _described(source: Any) -> str:
    text = f"{source.name}: {len(source):,} documents"
    if labels := getattr(source, "labels", None):
        counts = Counter(label.value for label in labels).most_common()
        text += "; " + ", ".join(f"{count:,} {label!r}" for label, count in counts[:10])
        text += f" and {len(counts) - 10:,} labels more" if len(counts) > 10 else ""
    return text + "".join(f"; {count:,} skipped: {reason}" for reason, count in source.skipped.items())


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


def say_end(
    log: metrics.Log,
    folder: Path,
    config: Config,
    held_out: Any,
    a_target: float,
    *,
    step: int,
) -> None:
    """The result: bits per byte or accuracy, marks to hold against it, a sample, the run's folder.

    A tokenized model's figure is of the canonical tokens of the bytes, an upper bound of the bytes' own.
    """
    if not hosts.leads():
        return
    if step < config.training.steps:
        log.say(f"stopped and saved at step {step}; the same command goes on from there")
        return
    metrics.plot(folder)
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    if judged := [line for line in lines if "eval/accuracy" in line]:
        last = judged[-1]
        low, high = last["eval/accuracy_low"], last["eval/accuracy_high"]
        print(
            f"accuracy {last['eval/accuracy']:.1%} (95 %: {low:.1%} to {high:.1%}) on "
            f"{last['eval/documents']:,} held-out documents, {last['eval/nats_per_label']:.3f} nats a label; "
            f"{last['eval/cut_share']:.0%} of them longer than a row of {config.data.row} and cut at its end"
        )
    if config.evaluation.marks:
        from bytelm.evals.compressors import marks

        row = round(config.data.row * a_target)
        documents = (held_out[i] for i in range(len(held_out)))
        for name, bits in marks(documents, row, config.evaluation.final_max_bytes).items():
            print(f"{name:<28} {bits:.3f} bits per byte")
    if evaluated := [line for line in lines if "eval/bits_per_byte" in line]:
        last = evaluated[-1]
        error, end = last["eval/standard_error"], last["eval/bits_per_end"]
        of = "this model, canonical tokens" if isinstance(config.model, TokenLMConfig) else "this model"
        if not models.is_causal(config.model):
            of = "this model, hidden bytes"
        print(
            f"{of:<28} {last['eval/bits_per_byte']:.3f} bits per byte"
            + (f" (standard error {error:.3f})" if error is not None else "")
            + f" on {last['eval/bytes']:,} held-out bytes in rows of {config.data.row}"
            + (f"; an end of text costs {end:.1f} bits more" if end is not None else "")
        )
    samples = folder / "samples.jsonl"
    if samples.exists() and (drawn := samples.read_text().splitlines()):
        print(f"sample:\n{json.loads(drawn[-1])['text']}\n")
    print(f"run: {folder}")
