"""Checkpoints: which are kept, which count, what a damaged one says."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.config import Checkpoints as CheckpointsConfig
from bytelm.training.checkpoints import Checkpoints
from bytelm.training.step import TrainState


def state(step, ema=True):
    params = {"a": {"b": jnp.arange(6.0).reshape(2, 3) + step}, "c": jnp.full(4, float(step))}
    averaged = jax.tree.map(lambda x: x - 100, params) if ema else None
    return TrainState(jnp.int32(step), params, (jax.tree.map(jnp.zeros_like, params),), averaged)


ABSTRACT = jax.eval_shape(lambda: state(0))
WHERE = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), ABSTRACT)


def write(folder, steps, ema=True, **config):
    checkpoints = Checkpoints(folder, CheckpointsConfig(**config))
    for step in steps:
        checkpoints.save(step, state(step, ema), {"place": step}, {"type": "Config", "step": step})
        checkpoints.wait()
    return checkpoints


def test_restores_all_of_it_together(tmp_path):
    write(tmp_path, [3, 5]).close()
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.steps(), checkpoints.latest()) == ([3, 5], 5)
    for step in (3, 5):
        found, place = checkpoints.restore(step, ABSTRACT, WHERE)
        jax.tree.map(np.testing.assert_array_equal, found, state(step))
        assert place == {"place": step}
        assert checkpoints.config(step)["step"] == step
    checkpoints.close()


def test_keeps_the_last_and_the_marked(tmp_path):
    checkpoints = write(tmp_path, [2, 4, 6, 8, 10], keep_last=2, keep_every=4)
    assert checkpoints.steps() == [4, 8, 10]
    checkpoints.save(10, state(10), {}, {})  # what is there is not written again
    checkpoints.close()


@pytest.mark.parametrize("ema", [True, False])
def test_averaged_parameters_are_the_ones_to_use(tmp_path, ema):
    checkpoints = write(tmp_path, [1], ema=ema)
    found = checkpoints.params(1, ABSTRACT.params, WHERE.params)
    expected = state(1, ema).ema if ema else state(1).params
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    checkpoints.close()


def test_one_cut_short_does_not_count(tmp_path):
    write(tmp_path, [1, 2]).close()
    # What a crash leaves: orbax's temporary name, with all or some of the files in it.
    shutil.copytree(tmp_path / "2", tmp_path / "3.orbax-checkpoint-tmp")
    for checkpoints in (Checkpoints(tmp_path), Checkpoints(tmp_path, CheckpointsConfig())):
        assert checkpoints.latest() == 2
        checkpoints.close()
    assert not list(tmp_path.glob("*tmp*"))  # a run that writes there clears it away


DAMAGES = {
    "emptied": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "overwritten": lambda data: bytes(len(data)),
    "a byte changed": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255])
    + data[len(data) // 2 + 1 :],
}  # fmt: skip


def damage(folder, how):
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("item", ["params", "optimizer", "data"])
def test_a_damaged_one_is_passed_over(tmp_path, capsys, how, item):
    write(tmp_path, [1, 2, 3]).close()
    damage(tmp_path / "3" / item, how)
    checkpoints = Checkpoints(tmp_path, CheckpointsConfig())
    found, place = checkpoints.restore_last(ABSTRACT, WHERE)
    jax.tree.map(np.testing.assert_array_equal, found, state(2))
    assert place == {"place": 2}
    said = capsys.readouterr().err
    assert f"warning: {tmp_path / '3'}: the checkpoint cannot be read" in said
    assert "using that of step 2" in said
    assert (tmp_path / "damaged" / "3").is_dir()
    checkpoints.save(3, state(3), {"place": 3}, {"type": "Config"})  # its place is free again
    checkpoints.wait()
    assert int(checkpoints.restore_last(ABSTRACT, WHERE)[0].step) == 3
    checkpoints.close()


def test_control_a_whole_one_is_not_passed_over(tmp_path, capsys):
    write(tmp_path, [1, 2]).close()
    checkpoints = Checkpoints(tmp_path, CheckpointsConfig())
    assert int(checkpoints.restore_last(ABSTRACT, WHERE)[0].step) == 2
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "damaged").exists()
    checkpoints.close()


def test_where_all_are_damaged_nothing_is_moved(tmp_path):
    write(tmp_path, [1, 2]).close()
    for step in "12":
        damage(tmp_path / step / "params", "emptied")
    checkpoints = Checkpoints(tmp_path, CheckpointsConfig())
    with pytest.raises(OSError, match="2: the checkpoint cannot be read"):
        checkpoints.restore_last(ABSTRACT, WHERE)
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_a_damaged_one_is_named(tmp_path):
    write(tmp_path, [1, 2]).close()
    for path in (tmp_path / "2" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(OSError, match=r"2: the checkpoint cannot be read"):
        checkpoints.restore(2, ABSTRACT, WHERE)
    found, _ = checkpoints.restore(1, ABSTRACT, WHERE)
    jax.tree.map(np.testing.assert_array_equal, found, state(1))
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: {"a": p["a"], "d": p["c"]}, r"c is \[4\] there, none in the model"),
        (lambda p: p | {"a": {"b": jnp.zeros((2, 5))}}, r"a/b is \[2, 3\] there, \[2, 5\] in the model"),
        (lambda p: p | {"b": p["c"]}, r"b is none there, \[4\] in the model"),
    ],
    ids=["renamed", "wider", "more"],
)
@pytest.mark.parametrize("ema", [True, False])
def test_parameters_of_another_model_are_named(tmp_path, change, said, ema):
    write(tmp_path, [1], ema=ema).close()
    checkpoints, other = Checkpoints(tmp_path), jax.eval_shape(change, ABSTRACT.params)
    where = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), other)
    with pytest.raises(OSError, match=said):
        checkpoints.params(1, other, where)
    checkpoints.close()
