"""What a run writes of itself: one step late, valid JSON, nothing of steps that are made again."""

from __future__ import annotations

import itertools
import json
import math
import struct
import time

import jax.numpy as jnp
import pytest

from bytelm.training import metrics
from bytelm.training.metrics import TIMINGS, Log


def figures(nats=100.0, **changes):
    values = {
        "nats": nats,
        "bytes": 50.0,
        "end_nats": 3.0,
        "lost": 0.0,
        "gradient_norm": 1.0,
        "update_norm": 0.1,
    }
    return {name: jnp.float32(x) for name, x in (values | {"parameter_norm": 5.0} | changes).items()}


def make(folder, start=0, steps=6, every=1, peak=1e9):
    return Log(folder, start=start, steps=steps, every=every, flops=1e3, peak=peak)


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def events(folder):
    """What TensorBoard reads: [(step, {name: value})]. A record is a length, a checksum, data, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.HasField("summary"):
                found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
    return found


def test_events_are_the_same_figures(tmp_path):
    log = make(tmp_path)
    for step in (1, 2):
        log.step(step, figures(100.0 * step), 0.1, 0.0)
    log.flush()  # they are there before the log is closed
    for line, (step, values) in zip(lines(tmp_path), events(tmp_path), strict=True):
        assert line.pop("step") == step
        assert values == pytest.approx({name: x for name, x in line.items() if x is not None}, rel=1e-6)
    log.close()


def test_one_step_late(tmp_path):
    log = make(tmp_path)
    log.step(1, figures(), 0.1, 0.0)
    assert lines(tmp_path) == []
    log.step(2, figures(200.0), 0.2, 0.0)
    assert [line["step"] for line in lines(tmp_path)] == [1]
    log.flush()
    log.flush()
    one, two = lines(tmp_path)
    assert one["train/bits_per_byte"] == pytest.approx(2 / math.log(2))
    assert two["train/bits_per_byte"] == pytest.approx(4 / math.log(2))
    assert two["learning_rate"] == 0.2
    assert list(one)[:2] == ["step", "train/bits_per_byte"]
    assert set(TIMINGS) <= set(one)
    log.close()


def test_a_clock_that_jumps(tmp_path, monkeypatch):
    """Times and speeds are of a clock that only goes forward; the wall clock may be set meanwhile."""
    real, jumps = time.time, itertools.cycle([1e9, -1e9, 3600.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    began = time.perf_counter()
    log = make(tmp_path, steps=4)
    for step in range(1, 5):
        time.sleep(0.01)
        with log.aside():
            time.sleep(0.05)
        log.step(step, figures(), 0.1, 0.25)
    log.flush()
    log.close()
    took, found = time.perf_counter() - began, lines(tmp_path)
    assert [step for step, _ in events(tmp_path)] == [1, 2, 3, 4]
    seconds = [line["seconds"] for line in found]
    assert seconds == sorted(seconds)
    assert 0.2 < seconds[-1] < took
    assert all(50.0 / took < line["bytes_per_second"] < 50.0 / 0.01 for line in found[:-1])
    assert sum(line["data_wait_seconds"] for line in found) == pytest.approx(4 * 0.25)
    assert abs(time.time() - time.time()) > 1000  # the control: the clock does jump


def test_every_so_often_and_where_something_was_added(tmp_path):
    log = make(tmp_path, steps=7, every=3)
    for step in range(1, 8):
        log.step(step, figures(), 0.1, 0.0)
        if step == 5:
            log.add(**{"eval/bits_per_byte": 2.5})
    log.flush()
    assert [line["step"] for line in lines(tmp_path)] == [3, 5, 6, 7]
    assert lines(tmp_path)[1]["eval/bits_per_byte"] == 2.5
    log.close()


def test_unknown_figures_are_null(tmp_path):
    log = make(tmp_path, peak=None)
    log.step(1, figures(), 0.1, 0.0)
    log.add(**{"eval/bits_per_byte": 2.5, "eval/standard_error": math.nan})
    log.flush()
    log.close()
    assert lines(tmp_path)[0]["eval/standard_error"] is None
    assert lines(tmp_path)[0]["mfu"] is None
    for step, found in enumerate(
        ({"bits_per_byte": math.nan}, {"nats_per_label": math.inf, "accuracy": 0.5}), start=2
    ):
        log = make(tmp_path, start=step - 1)
        log.step(step, figures(), 0.1, 0.0)
        log.add(**{f"eval/{name}": x for name, x in found.items()})
        log.flush()
        log.close()
    assert [line.get("eval/bits_per_byte") for line in lines(tmp_path)] == [2.5, None, None]
    metrics.plot(tmp_path)
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "bad", [{"nats": math.nan}, {"gradient_norm": math.inf}, {"parameter_norm": math.inf}]
)
@pytest.mark.parametrize("when", ["next", "flush", "aside"])
def test_what_is_not_finite_stops_the_run(tmp_path, bad, when):
    log = make(tmp_path)
    log.step(1, figures(), 0.1, 0.0)
    log.step(2, figures(**bad), 0.1, 0.0)
    tell = {
        "next": lambda: log.step(3, figures(), 0.1, 0.0),
        "flush": log.flush,
        "aside": log.aside().__enter__,
    }
    with pytest.raises(FloatingPointError, match="step 2: not all is finite"):
        tell[when]()
    assert [line["step"] for line in lines(tmp_path)] == [1]
    log.close()


def test_going_on_drops_what_comes_after(tmp_path):
    log = make(tmp_path)
    for step in range(1, 6):
        log.step(step, figures(), 0.1, 0.0)
    log.flush()
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/bits')  # what a kill leaves
    log = make(tmp_path, start=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    log.step(4, figures(70.0), 0.1, 0.0)
    log.flush()
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_time_aside_is_not_in_the_rate(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    log = make(tmp_path)
    log.step(1, figures(), 0.1, 0.0)
    now[0] += 2.0
    with log.aside():
        now[0] += 100.0
    log.step(2, figures(), 0.1, 0.25)
    log.flush()
    assert lines(tmp_path)[0]["bytes_per_second"] == pytest.approx(50 / 2)
    assert lines(tmp_path)[0]["mfu"] == pytest.approx(25 * 1e3 / 1e9)
    assert lines(tmp_path)[0]["data_wait_seconds"] == 0.25
    log.close()


def test_a_file_is_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    metrics.write_whole(path, "old")

    def cut(self, text):
        self.open("w").write(text[:1])
        raise OSError("full")

    monkeypatch.setattr(type(path), "write_text", cut)
    with pytest.raises(OSError, match="full"):
        metrics.write_whole(path, "new")
    assert path.read_text() == "old"
