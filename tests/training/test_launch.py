"""Signals, samples and the profiler around a run."""

from __future__ import annotations

import fcntl
import json
import os
import signal

import jax
import pytest
from tiny import MODEL

from bytelm import models
from bytelm.config import Config, Data, Samples, Training
from bytelm.parameters import params_of
from bytelm.training import launch
from bytelm.training.samples import Sampler


def test_the_first_signal_asks_and_the_second_stops():
    old = signal.getsignal(signal.SIGTERM)
    with launch.StopSignal() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is old


def test_a_folder_has_one_run(tmp_path, capsys):
    """A second one would take the first one's half-written checkpoint away, and its lines."""
    config = Config()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("as before")
    other = os.open(folder, os.O_RDONLY)  # as another process has it
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SystemExit):
        launch.prepare_folder(launch.Run(config, str(folder)), config)
    assert "another process trains in it; wait, or choose another --workdir" in capsys.readouterr().err
    assert (folder / "config.json").read_text() == "as before"
    os.close(other)
    for _ in range(2):  # this process may go on with it
        assert launch.prepare_folder(launch.Run(config, str(folder)), config) == folder
    assert "as before" not in (folder / "config.json").read_text()


@pytest.mark.parametrize(("error", "status"), [(OSError("full"), 1), (FloatingPointError("step 3"), 1)])
def test_what_the_world_does_is_a_message(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit:
        launch.guarded(main)
    assert exit.value.code == status
    assert capsys.readouterr().err == f"train.py: error: {error}\n"


def test_a_fault_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        launch.guarded(lambda: 1 / 0)


def test_profile_records_its_steps_wherever_the_run_begins_and_ends(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: told.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    for steps, expected in [
        (range(1, 9), ["start", "stop"]),
        (range(4, 9), ["start", "stop"]),  # gone on from within
        (range(1, 5), ["start", "stop"]),  # ended within
        (range(6, 9), []),
    ]:
        told.clear()
        with launch.Profile(tmp_path, Config(training=Training(profile=(3, 6)))) as profile:
            for step in steps:
                profile.step(step)
        assert told == expected


def test_samples_are_those_of_their_step(tmp_path):
    config = Config(model=MODEL, data=Data(row=16), samples=Samples(prompts=("", "ab"), max_bytes=4))
    model = models.build(MODEL, jax.random.key(0))
    draw, params = Sampler(tmp_path, config, model, None), params_of(model)

    def lines():
        return [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]

    draw(1, params)
    draw(2, params)
    expected = lines()
    assert [(x["step"], x["prompt"]) for x in expected] == [(1, ""), (1, "ab"), (2, ""), (2, "ab")]
    assert expected[0]["text"] != expected[2]["text"]
    draw(2, params)  # a run that went on from step 1
    assert lines() == expected


def test_no_prompts_no_samples(tmp_path):
    config = Config(model=MODEL, data=Data(row=16), samples=Samples(prompts=()))
    model = models.build(MODEL, jax.random.key(0))
    Sampler(tmp_path, config, model, None)(1, params_of(model))
    assert not (tmp_path / "samples.jsonl").exists()
