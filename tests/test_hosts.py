"""Several processes train one model: the same figures, wherever they are started, lost and started again."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from test_train import Place

from bytelm.models import pieces
from bytelm.training.hosts import Hosts, settings

STEPS = 12
LENGTH = ["--training.steps", STEPS, "--evaluation.every", 5]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def alone(place):
    status, _, error = place.run("alone", *LENGTH)
    assert status == 0, error
    return place.lines("alone")


def start(place, run, count, *flags, **how):
    """`count` processes of train.py that train together."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    where = ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", count, "--hosts.patience", 10]
    return [place.start(run, *LENGTH, *where, "--hosts.index", i, *flags, **how) for i in range(count)]


def ends(processes, seconds=300):
    """[(status, standard output, standard error)] of them; kills what is left."""
    stop, found = time.monotonic() + seconds, []
    try:
        for process in processes:
            out, error = process.communicate(timeout=max(1, stop - time.monotonic()))
            found.append((process.returncode, out, error))
    except subprocess.TimeoutExpired:
        pytest.fail(f"not over after {seconds} s")
    finally:
        for process in processes:
            process.kill()
    return found


def together(place, run, count, *flags, **how):
    found = ends(start(place, run, count, *flags, **how))
    assert [status for status, _, _ in found] == [0] * count, found
    return found


def assert_same_figures(place, run, alone):
    lines = place.lines(run)
    assert [line["step"] for line in lines] == [line["step"] for line in alone]
    for name in ("train/bits_per_byte", "eval/bits_per_byte", "eval/bytes", "gradient_norm"):
        ours, expected = ([line[name] for line in x if name in line] for x in (lines, alone))
        assert expected, name
        np.testing.assert_allclose(ours, expected, rtol=1e-5, err_msg=name)


def at_step(place, run, step, processes):
    """Waits for the line of a step."""
    file = place.folder / run / "metrics.jsonl"
    while not (file.exists() and f'"step": {step},' in file.read_text()):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.mark.slow
def test_two_are_as_good_as_one(place, alone):
    (_, out, error), (_, other_out, other_error) = together(place, "two", 2)
    assert_same_figures(place, "two", alone)
    assert "bits per byte" in out
    assert "data 2, fsdp 1, tensor 1" in error
    assert "bits per byte" not in other_out + other_error  # one speaks


@pytest.mark.slow
@pytest.mark.parametrize(("count", "flags"), [
    (2, ["--mesh.fsdp", 2]), (2, ["--mesh.tensor", 2]), (4, ["--mesh.fsdp", 2, "--mesh.tensor", 2]),
])  # fmt: skip
def test_meshes_across_hosts(place, alone, count, flags):
    run = f"mesh{count}{''.join(map(str, flags))}"
    together(place, run, count, *flags)
    assert_same_figures(place, run, alone)


SIZES = "layers=1, width=16, heads=2, mlp_width=16"
READ = "words=40, cap=6, byte_width=8, byte_heads=2"
PIECES = f"rule='runs', pieces={pieces.to_text({b'alpha', b'eta', b' ga'})!r}"
OTHERS = {
    "words": f"WordPooledConfig({SIZES}, {READ}, byte_mlp_width=16, decoder_layers=1)",
    "learn your tokens": f"LearnYourTokensConfig({SIZES}, words=40, cap=6, vectors=2, encoder_heads=2)",
    "byte2word": f"Byte2WordConfig({SIZES}, {READ})",
    "hidden words": f"MaskedByte2WordConfig({SIZES}, {READ}, {PIECES})",
    "bert": f"BertConfig({SIZES}, {PIECES})",
    "tokens": f"TokenLMConfig({SIZES}, vocab_size=264, context=64)",
}
OTHER = """
import dataclasses

from bytelm.data import Bpe
from bytelm.models import *

data = dataclasses.replace(config.data, tokenizer={tokenizer})
config = dataclasses.replace(config, model={model}, data=data)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_model(place, name):
    """One, two and four processes; the last cut parameters, heads and units too."""
    tokenizer = "Bpe(size=264)" if name == "tokens" else "None"
    config = place.folder / f"{name}.py"
    config.write_text(place.config.read_text() + OTHER.format(model=OTHERS[name], tokenizer=tokenizer))
    status, _, error = place.run(f"{name} 1", *LENGTH, config=config)
    assert status == 0, error
    for count, flags in {2: [], 4: ["--mesh.fsdp", 2, "--mesh.tensor", 2]}.items():
        together(place, f"{name} {count}", count, *flags, config=config)
        assert_same_figures(place, f"{name} {count}", place.lines(f"{name} 1"))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_one_that_dies_ends_the_run_and_others_go_on_with_it(place, alone, lost):
    run = f"lost{lost}"
    processes = start(place, run, 2)
    at_step(place, run, 6, processes)
    began = time.monotonic()
    processes[lost].kill()
    found = ends(processes, seconds=60)
    print(f"ended {time.monotonic() - began:.1f} s after")
    assert found[lost][0] == -signal.SIGKILL
    status, _, error = found[1 - lost]
    assert status != 0
    assert error
    if lost:  # goes on from its last checkpoint, of step 4: in more processes, or in one
        together(place, run, 4)
    else:
        status, _, error = place.run(run, *LENGTH)
        assert status == 0, error
        assert "going on from step 4" in error
    assert_same_figures(place, run, alone)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_one_that_is_asked_to_stop_stops_all(place, alone, asked):
    run = f"asked{asked}"
    processes = start(place, run, 2)
    at_step(place, run, 3, processes)
    processes[asked].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [status for status, _, _ in found] == [0, 0], found
    (step,) = re.findall(r"stopped and saved at step (\d+)", found[0][2])
    assert int(step) < STEPS
    together(place, run, 2)
    assert_same_figures(place, run, alone)


@pytest.mark.slow
def test_unlike_configs_are_refused(place):
    first, second = start(place, "unlike", 2)
    second.kill()
    second.wait()
    flags = [str(x) for x in first.args]
    port = flags[flags.index("--hosts.coordinator") + 1]
    second = place.start("unlike", *LENGTH, "--training.seed", 5, "--hosts.coordinator", port,
                         "--hosts.count", 2, "--hosts.index", 1, "--hosts.patience", 10)  # fmt: skip
    found = ends([first, second])
    assert 2 in [status for status, _, _ in found]
    assert any("the config of process 1 is not that of process 0" in error for _, _, error in found)


@pytest.mark.slow
def test_under_slurm(place, alone):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        job = s.getsockname()[1] - (65535 - 2**12 + 1)  # jax makes the port of the job's number
    job %= 2**12
    slurm = {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": 2}
    processes = []
    for i in range(2):
        extra = {k: str(x) for k, x in {**slurm, "SLURM_PROCID": i, "SLURM_LOCALID": i}.items()}
        processes.append(place.start("slurm", *LENGTH, extra=extra))
    assert [status for status, _, _ in ends(processes)] == [0, 0]
    assert_same_figures(place, "slurm", alone)


# ---- where they meet -----------------------------------------------------------------------------------


def test_flags_come_before_the_environment_and_that_before_slurm():
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    environment = slurm | {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert settings(Hosts(), {}) is None
    assert settings(Hosts(), slurm) == {"cluster_detection_method": "slurm"}
    assert settings(Hosts(), slurm | {"SLURM_NTASKS": "1"}) is None
    assert settings(Hosts(auto=True), {}) == {}
    of_environment = {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3}
    assert settings(Hosts(), environment) == of_environment
    assert settings(Hosts(index=1), environment) == of_environment | {"process_id": 1}


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (Hosts(coordinator="a:1", count=2), "--hosts.index .* is missing"),
        (Hosts(coordinator="a:1", count=2, index=2), "with count 2 it is 0 to 1"),
    ],
)
def test_half_an_address_is_refused(hosts, message):
    with pytest.raises(ValueError, match=message):
        settings(hosts, {})
