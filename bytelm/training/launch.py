"""What stands around a run: its command line, its folder, where it starts from, and what it says."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.experimental import multihost_utils

from bytelm import config as configs_of
from bytelm import layers
from bytelm.config import Config
from bytelm.training import metrics
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


def parse(args: list[str], configs: Path) -> tuple[Run, Config]:
    """The command line. Exits with status 2 for bad usage."""
    name = args[0] if args and not args[0].startswith("-") else "default"
    rest = args[1:] if args and not args[0].startswith("-") else args
    try:
        base = read_config(name, configs)
        run = tyro.cli(
            Run, args=rest, default=Run(config=base), prog="train.py", config=(tyro.conf.AvoidSubcommands,)
        )
    except (ValueError, TypeError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
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
    try:
        if old.is_file() and any((folder / "checkpoints").glob("[0-9]*")):
            configs_of.check_same(configs_of.read(old), config, folder)
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            old.write_text(json.dumps(configs_of.to_dict(config), indent=1) + "\n")
            (folder / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
    except (OSError, ValueError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
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


# ---- hosts ---------------------------------------------------------------------------------------------


def lanes_of_host(by_row: jax.sharding.NamedSharding, rows: int) -> range:
    """The rows of a global batch that lie on this host's devices."""
    spans = by_row.addressable_devices_indices_map((rows, 1)).values()
    edges = [span[0].indices(rows)[:2] for span in spans if span is not None]
    return range(min(e[0] for e in edges), max(e[1] for e in edges))


def all_hosts(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the streams of all hosts."""
    if jax.process_count() == 1:
        return [state]
    lanes = multihost_utils.process_allgather(np.asarray(state["lanes"]))
    return [{**state, "lanes": part.tolist()} for part in lanes]


# ---- where a run starts from ---------------------------------------------------------------------------


def restore(
    run: Run, config: Config, own: Checkpoints, abstract: TrainState, placed: TrainState
) -> tuple[TrainState | None, Any, str]:
    """State and place in the data from the run's own folder or from --resume; None for a new start."""
    step = own.latest()
    if step is not None:
        return *own.restore(step, abstract, placed), f"going on from step {step} in {own.folder.parent}"
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
    params = other.params(step, state.params, placed.params)
    other.close()
    return state._replace(params=params, ema=None if state.ema is None else params)


def _open(path: str) -> tuple[Checkpoints, int, Config]:
    folder = Path(path)
    if not (folder / "checkpoints").is_dir():
        raise SystemExit(f"train.py: error: {path}: not a run: it has no checkpoints/")
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.latest()
    if step is None:
        raise SystemExit(f"train.py: error: {path}: no whole checkpoint in it")
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
) -> None:
    """One table: parameters, mesh, batch, FLOPs, memory."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    sizes: dict[str, int] = {}
    for keys, x in flat:
        sizes[keys[0].key] = sizes.get(keys[0].key, 0) + int(np.prod(x.shape))
    total = sum(sizes.values())
    copies = 4 + (config.training.ema is not None)  # parameters, gradient, two of the optimizer's
    parts = ", ".join(f"{name} {n:,}" for name, n in sizes.items())
    batch = config.training.rows * config.data.row
    rows = [
        ("parameters", f"{total:,} ({parts})"),
        ("mesh", ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items())),
        ("batch", f"{config.training.rows} rows x {config.data.row} = {batch:,} bytes a step"),
        ("FLOPs", f"{flops / 1e6:,.1f} M a byte of training"),
        ("memory", f"about {total * 4 * copies / 1e6:,.0f} MB for parameters and optimizer, over the mesh"),
        ("data", f"{source.name}: {len(source):,} documents{_skipped(source)}"),
        ("held out", f"{held_out.name}: {len(held_out):,} documents{_skipped(held_out)}"),
        ("start", note),
    ]
    for name, text in rows:
        log.say(f"{name:<11} {text}")


def _skipped(source: Any) -> str:
    return "".join(f"; {count:,} skipped: {reason}" for reason, count in source.skipped.items())


def profile(folder: Path, config: Config, step: int) -> None:
    """Starts and stops the profiler around the steps that the config names."""
    if config.training.profile is not None:
        first, last = config.training.profile
        if step == first:
            jax.profiler.start_trace(str(folder / "profile"))
        elif step == last:
            jax.profiler.stop_trace()


def sample(folder: Path, config: Config, step: int, model: Any, params: Any) -> None:
    """Draws a text for each prompt and adds it to samples.jsonl."""
    if jax.process_count() > 1:
        return  # sampling is one host's work and the parameters may lie on others
    from bytelm.generate import generate
    from bytelm.trained import TrainedLM

    lm = TrainedLM(model, layers.on_one_device(params), config.data.row)
    s = config.samples
    texts = generate(
        lm, list(s.prompts), max_bytes=s.max_bytes, temperature=s.temperature, top_p=s.top_p, seed=step
    )
    path = folder / "samples.jsonl"
    kept = [x for x in path.read_text().splitlines() if json.loads(x)["step"] < step] if path.exists() else []
    new = [
        json.dumps({"step": step, "prompt": p, "text": t.decode("utf-8", "replace")})
        for p, t in zip(s.prompts, texts, strict=True)
    ]
    path.write_text("\n".join([*kept, *new]) + "\n")


def say_end(log: metrics.Log, folder: Path, config: Config, held_out: Any, *, stopped: bool) -> None:
    """The result: bits per byte, marks to hold against it, a sample, the run's folder."""
    if jax.process_index() != 0:
        return
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    if stopped:
        log.say(f"stopped and saved at step {lines[-1]['step']}; the same command goes on from there")
        return
    metrics.plot(folder)
    last = lines[-1]
    if config.evaluation.marks:
        from bytelm.evals.compressors import marks

        documents = (held_out[i] for i in range(len(held_out)))
        for name, bits in marks(documents, config.data.row, config.evaluation.final_max_bytes).items():
            print(f"{name:<28} {bits:.3f} bits per byte")
    error = last["eval/standard_error"]
    print(
        f"{'this model':<28} {last['eval/bits_per_byte']:.3f} bits per byte"
        + (f" (standard error {error:.3f})" if error is not None else "")
        + f" on {last['eval/bytes']:,} held-out bytes in rows of {config.data.row}; "
        f"an end of text costs {last['eval/bits_per_end']:.1f} bits more"
    )
    text = json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])["text"]
    print(f"sample:\n{text}\n")
    print(f"run: {folder}")
