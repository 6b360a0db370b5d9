"""The training stream as its user sees it: resuming, hosts, the thread, errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bytelm.data import Files, Mixture, merge_states, train_stream

TEXTS = [bytes(np.random.default_rng(i).integers(0, 256, 1 + i * i, np.uint8)) for i in range(25)]


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in ("inputs", "targets", "documents"))


def equal(a, b):
    return len(a) == len(b) and all(map(same, a, b))


def take(stream, count):
    return [next(stream) for _ in range(count)]


@pytest.fixture(params=["whole", "pieces", "mixture", "unmeasured"])
def open_stream(request, table, unmeasured):
    """A function that opens a stream of 4 rows over some source."""
    kind = request.param
    sources = {
        "whole": table(TEXTS),
        "pieces": table(TEXTS),
        "mixture": Mixture((table(TEXTS[:9]), table(TEXTS[9:])), (2.0, 1.0)),
        "unmeasured": unmeasured(TEXTS),
    }
    fixed = {"rows": 4, "length": 33, "seed": 5, "piece": None if kind in ("whole", "unmeasured") else 20}
    return lambda **changes: train_stream(sources[kind], **{**fixed, **changes})


def test_seeds_decide(open_stream):
    first, again, other = (take(open_stream(seed=seed), 5) for seed in (5, 5, 6))
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resume_to_the_bit(open_stream, prefetch):
    through = take(open_stream(prefetch=0), 60)
    states, mid_document = [], 0
    with open_stream(prefetch=prefetch) as stream:
        for _ in range(40):
            states.append(json.loads(json.dumps(stream.get_state())))
            next(stream)
            if prefetch:
                time.sleep(0.001)  # lets the thread run ahead of what was taken
    for step in np.random.default_rng(0).choice(40, 12, replace=False):
        mid_document += any(offset for _, _, offset in states[step]["lanes"])
        with open_stream(prefetch=prefetch) as resumed:
            take(resumed, int(step) % 3)  # whatever it did before
            resumed.set_state(states[step])
            assert resumed.get_state() == states[step]
            assert equal(take(resumed, 4), through[step : step + 4])
            assert not equal(take(resumed, 4), through[step : step + 4])
    assert mid_document > 6  # the control: places were inside documents, not at their starts


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_see_their_rows_of_one_global_batch(open_stream, hosts):
    whole = take(open_stream(), 12)
    for host in range(hosts):
        lanes = range(host * 4 // hosts, (host + 1) * 4 // hosts)
        own = take(open_stream(lanes=lanes), 12)
        assert equal(own, [{name: array[list(lanes)] for name, array in batch.items()} for batch in whole])


def test_resume_on_another_number_of_hosts(open_stream):
    whole = take(open_stream(), 20)
    hosts = [open_stream(lanes=lanes) for lanes in ((0, 1), (2, 3))]
    for host in hosts:
        take(host, 10)
    state = json.loads(json.dumps(merge_states([host.get_state() for host in hosts])))
    for lanes in ((0, 1, 2, 3), (0, 2), (3,)):
        stream = open_stream(lanes=lanes)
        stream.set_state(state)
        expected = [{name: array[list(lanes)] for name, array in batch.items()} for batch in whole[10:]]
        assert equal(take(stream, 10), expected)


def test_rows_may_change_their_length_at_resume(open_stream):
    targets = np.concatenate([batch["targets"] for batch in take(open_stream(), 12)], axis=1)
    first = open_stream()
    take(first, 4)
    second = open_stream(length=66)
    second.set_state(first.get_state())
    assert np.array_equal(np.concatenate([b["targets"] for b in take(second, 4)], axis=1), targets[:, 132:])


def test_states_that_do_not_fit(open_stream):
    stream = open_stream()
    state = stream.get_state()
    for changes, message in [
        ({"seed": 6}, "seed=5, this one has seed=6"),
        ({"rows": 8}, "rows=4, this one has rows=8"),
        ({"piece": 19}, "this one has piece=19"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_stream(**changes).set_state(state)
    with pytest.raises(ValueError, match=r"no place for lanes \[2, 3\]"):
        stream.set_state(open_stream(lanes=(0, 1)).get_state())
    with pytest.raises(ValueError, match="damaged"):
        stream.set_state({**state, "lanes": [[0, 1, -1], *state["lanes"][1:]]})


def test_state_beyond_the_data_is_an_error(table):
    stream = train_stream(table([b"abc"]), rows=1, length=4, seed=0, prefetch=0)
    stream.set_state({**stream.get_state(), "lanes": [[0, 0, 99]]})
    with pytest.raises(ValueError, match="the data are not those that the state was saved with"):
        next(stream)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_of_the_thread_arrive_and_can_be_retried(tmp_path, prefetch):
    path = tmp_path / "long.txt"
    data = bytes(np.random.default_rng(0).integers(0, 256, 300_000, np.uint8))
    path.write_bytes(data)
    source = Files(train=(str(path),)).open("train")
    expected = take(train_stream(source, rows=2, length=1000, seed=0, prefetch=0), 200)
    with train_stream(source, rows=2, length=1000, seed=0, prefetch=prefetch) as stream:
        seen = take(stream, 3)
        path.unlink()
        with pytest.raises(OSError, match=r"long\.txt"):
            seen.extend(stream)  # keeps what came before the error
        with pytest.raises(OSError, match=r"long\.txt"):
            next(stream)
        path.write_bytes(data)
        while len(seen) < 200:
            seen.append(next(stream))
    assert equal(seen, expected)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_failed_batch_leaves_no_lane_ahead(unmeasured, prefetch):
    class Flaky(unmeasured):
        def __getitem__(self, i):
            document = super().__getitem__(i)
            if self.fetched in (2, 12, 23, 35, 48, 62):  # in any lane, also after others filled their rows
                raise OSError("the disk is away")
            return document

    texts = [text[:40] for text in TEXTS]
    expected = take(train_stream(unmeasured(texts), rows=4, length=33, seed=0, prefetch=0), 30)
    seen, failures = [], 0
    with train_stream(Flaky(texts), rows=4, length=33, seed=0, prefetch=prefetch) as stream:
        while len(seen) < 30:
            try:
                seen.append(next(stream))
            except OSError:
                failures += 1
    assert failures == 6
    assert equal(seen, expected)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_slow_source_is_waited_for(table, monkeypatch, prefetch):
    """Nothing is lost or out of order, and whoever asks for a batch waits for it."""
    how = {"rows": 2, "length": 50, "seed": 1, "prefetch": prefetch}
    source = table([text for text in TEXTS if len(text) < 60])
    with train_stream(source, **how) as stream:
        expected = take(stream, 6)
    read = type(source).read

    def slowly(self, *where):
        time.sleep(0.01)
        return read(self, *where)

    monkeypatch.setattr(type(source), "read", slowly)
    began = time.perf_counter()
    with train_stream(source, **how) as stream:
        found = take(stream, 6)
    assert time.perf_counter() - began > 6 * 2 * 0.01  # each row of a batch begins at least one document
    assert equal(found, expected)


def threads():
    return {thread for thread in threading.enumerate() if "prefetch" in thread.name}


def test_close_stops_the_thread(table):
    before = threads()
    stream = train_stream(table(TEXTS), rows=2, length=16, seed=0, prefetch=2)
    next(stream)
    assert len(threads() - before) == 1  # the control: there is one to stop
    stream.close()
    stream.close()
    assert not threads() - before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_dropping_a_stream_stops_its_thread(table):
    before = threads()
    stream = train_stream(table(TEXTS), rows=2, length=16, seed=0, prefetch=2)
    next(stream)
    assert threads() - before
    del stream
    assert not threads() - before


@pytest.mark.parametrize("lanes", [(), (1, 0), (0, 0), (4,), (-1, 0)])
def test_bad_lanes(table, lanes):
    with pytest.raises(ValueError, match="lanes are increasing"):
        train_stream(table(TEXTS), rows=4, length=8, seed=0, lanes=lanes)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"length": 0}, {"prefetch": -1}, {"piece": 0}, {"seed": -1}])
def test_bad_numbers(table, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        train_stream(table(TEXTS), **{"rows": 4, "length": 8, "seed": 0, **wrong})


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_open_stream_does_not_disturb_the_end_of_the_program(prefetch):
    code = f"""
from bytelm.data import train_stream
from bytelm.data.documents import TableBuilder
builder = TableBuilder()
builder.add(b"some text")
stream = train_stream(builder.build("x", ""), rows=1, length=4, seed=0, prefetch={prefetch})
next(stream)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
