"""What a run says of itself: metrics.jsonl, TensorBoard events, a plot, and lines or a bar for people."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from bytelm.devices import device_of
from bytelm.training import hosts

# What may differ between equal runs: times, and `bytes`, which a run that goes on counts from where it does.
TIMINGS = ("bytes_per_second", "mfu", "data_wait_seconds", "seconds", "bytes")


class Log:
    """Takes the metrics of each step while they are still being computed, and reads them one step late.

    So the device always has its next step queued before the host asks about the last one. One line a
    logged step goes to ``metrics.jsonl``; bits per byte come first. Of several hosts one writes; all stop at
    figures that are not finite.
    """

    def __init__(self, folder: Path, *, start: int, steps: int, every: int, flops: float, peak: float | None):
        """`flops` a byte of training, `peak` of all devices a second (None: unknown, no MFU)."""
        self._path, self._every, self._steps = folder / "metrics.jsonl", every, steps
        self._leads = hosts.leads()
        if self._leads:
            self._keep_until(start)
            self._file, self._events = self._path.open("a"), _Events(folder, start)
        self._flops, self._peak = flops, peak
        self._pending: tuple[int, dict[str, Any], dict[str, Any]] | None = None
        self._bytes, self._wait, self._since, self._began = 0.0, 0.0, time.perf_counter(), time.perf_counter()
        self._bar = tqdm(
            total=steps, initial=start, unit="step", leave=False,
            disable=not (self._leads and sys.stderr.isatty()),
        )  # fmt: skip

    def _keep_until(self, start: int) -> None:
        """Drops the lines after step `start`: they will be made again."""
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step(line) <= start]
            write_whole(self._path, "".join(line + "\n" for line in lines))

    def step(self, step: int, metrics: dict[str, Any], rate: Any, wait: float) -> None:
        """Notes step `step` (from 1) with its metrics, still on the device; tells of the step before."""
        before, self._pending = self._pending, (step, metrics, {"learning_rate": float(rate)})
        self._wait += wait
        if before is not None:
            self._tell(*before)

    def add(self, **figures: Any) -> None:
        """Figures that belong in the line of the last step noted, such as an evaluation's."""
        assert self._pending is not None, "add() follows step()"
        self._pending[2].update(figures)

    def flush(self) -> None:
        """Waits for the last step and tells of it. Raises FloatingPointError if its loss is not finite."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._tell(*pending)

    @contextmanager
    def aside(self):
        """For what is no training: its time is left out of the rates.

        It begins when the last step noted is done. Raises FloatingPointError, before anything is done or
        written with the parameters, if that step's figures are not finite.
        """
        if self._pending is not None:
            _finite(*self._pending[:2])
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def say(self, text: str) -> None:
        """A line for people, on standard error, from one host."""
        if not self._leads:
            return
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if self._leads:
            self._file.close()
            self._events.close()

    def _tell(self, step: int, metrics: dict[str, Any], figures: dict[str, Any]) -> None:
        values, name, figure = _finite(step, metrics)
        self._bytes += values["bytes"]
        self._bar.update(step - self._bar.n)
        if not self._leads or (step % self._every and step != self._steps and len(figures) == 1):
            return
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rate = self._bytes / seconds
        line = {
            "step": step,
            f"train/{name}": figure,
            **{name: x for name, x in figures.items() if name.startswith("eval/")},
            "bytes_per_second": rate,
            "bytes": int(self._bytes),  # in the steps since the line before, like the rate
            "mfu": rate * self._flops / self._peak if self._peak else None,
            "data_wait_seconds": self._wait,
            "seconds": time.perf_counter() - self._began,
            "lost_share": values["lost"] / max(values["bytes"] + values["lost"], 1.0),
            **({"cut_share": values["cut"] / max(values["labels"], 1.0)} if "cut" in values else {}),
            **{name: x for name, x in values.items() if name.endswith("_norm")},
            **{name: x for name, x in figures.items() if not name.startswith("eval/")},
        }
        self._bytes, self._wait, self._since = 0.0, 0.0, time.perf_counter()
        # JSON has no NaN, which a figure may be that is not known, as the error of a single document.
        line = {name: x if x is None or math.isfinite(x) else None for name, x in line.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._events.write(step, line)
        held_out = ""
        if "eval/bits_per_byte" in figures:
            held_out = f"  held out {figures['eval/bits_per_byte']:.4f}"
        elif "eval/accuracy" in figures:
            nats, share = figures["eval/nats_per_label"], figures["eval/accuracy"]
            held_out = f"  held out {nats:.4f}, accuracy {share:.1%}"
        mfu = f"  MFU {line['mfu']:.0%}" if line["mfu"] is not None else ""
        lost = f"  {line['lost_share']:.2%} of bytes without loss" if line["lost_share"] else ""
        lost += f"  {line['cut_share']:.0%} of documents cut" if line.get("cut_share") else ""
        told = f"{figure:.4f} {name.replace('_', ' ')}{held_out}{lost}  {rate / 1e3:,.1f} kB/s{mfu}"
        self._bar.set_postfix_str(told, refresh=False)
        if self._bar.disable or held_out:
            wait, norm = line["data_wait_seconds"], values["gradient_norm"]
            self.say(f"step {step:>6}  {told}  wait {wait:.2f} s  norm {norm:.2f}")


def _finite(step: int, metrics: dict[str, Any]) -> tuple[dict[str, float], str, float]:
    """A step's metrics as numbers, and its loss by name. Raises FloatingPointError if one is not finite."""
    values = {name: float(x) for name, x in metrics.items()}
    if "labels" in values:
        name, figure = "nats_per_label", values["label_nats"] / max(values["labels"], 1.0)
    else:
        name, figure = "bits_per_byte", values["nats"] / max(values["bytes"], 1.0) / math.log(2)
    if not all(map(math.isfinite, (figure, *values.values()))):
        norms = ", ".join(f"{name} {x:g}" for name, x in values.items() if name.endswith("_norm"))
        raise FloatingPointError(
            f"step {step}: not all is finite: the loss is {figure:g} {name.replace('_', ' ')}, {norms}. "
            "Nothing was saved of it. Start again from the last checkpoint with a lower "
            "--optimizer.learning-rate or longer --optimizer.warmup"
        )
    return values, name, figure


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # the line that a kill cut short


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a crash leaves the old one or the new one, never a part."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


class _Events:
    """TensorBoard events of the same figures (tensorboardX writes them without TensorFlow).

    Written at once, not by tensorboardX's thread: that one ends when the clock is set back by weeks, and
    what is written after it waits for ever.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        (folder / "tensorboard").mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "tensorboard" / "events"))
        # What an earlier process wrote after step `start` is hidden: it will be made again.
        begins = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=start + 1, session_log=begins))

    def write(self, step: int, line: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=x)
            for name, x in line.items()
            if name != "step" and isinstance(x, int | float)
        ]
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def plot(folder: Path) -> Path:
    """Draws a run's ``metrics.jsonl`` to ``curve.png``: the loss of training and of held-out documents."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    name = next(key for key in lines[0] if key.startswith("train/")).removeprefix("train/")
    train, kept = f"train/{name}", f"eval/{name}"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [x["step"] for x in lines],
        [x[train] for x in lines],
        color="#88aacc",
        lw=1,
        label="training rows",
    )
    held = [x for x in lines if x.get(kept) is not None]
    if held:
        axes.errorbar(
            [x["step"] for x in held], [x[kept] for x in held],
            [x.get("eval/standard_error") or 0.0 for x in held],
            color="#b03000", marker="o", ms=4, capsize=3,
            label="held-out documents" + (", ± standard error" if "eval/standard_error" in held[0] else ""),
        )  # fmt: skip
        axes.set_title(f"{folder.name}: {held[-1][kept]:.3f} {name.replace('_', ' ')}, held out")
    axes.set(xlabel="step", ylabel=name.replace("_", " "))
    lows = [x[train] for x in lines] + [x[kept] for x in held]
    axes.set_ylim(min(lows) * 0.95, sorted(lows)[int(len(lows) * 0.9)] * 1.25)  # the first steps may leave it
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "curve.png"
    figure.savefig(path, dpi=120)
    return path


def peak_flops() -> float | None:
    """Operations a second of all devices: a data sheet's for GPU and TPU, a measured product's on CPU."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        n = 1024
        a = jnp.ones((n, n))
        product = jax.jit(jnp.matmul)
        product(a, a).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            product(a, a).block_until_ready()
            times.append(time.perf_counter() - start)
        return 2.0 * n**3 / min(times)
    device = device_of(kind)
    return None if device is None else device.peak * jax.device_count()
