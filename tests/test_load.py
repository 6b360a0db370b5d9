"""A run's folder -> a model, and what is said of folders that are none."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil

import jax
import numpy as np
import pytest

import bytelm
from bytelm import config as configs
from bytelm import models, saved
from bytelm.config import Checkpoints as CheckpointsConfig
from bytelm.config import Config, Data, Samples
from bytelm.data import Bpe, Files
from bytelm.lm import END
from bytelm.load import describe, load_classifier
from bytelm.models import ByteTransformerConfig
from bytelm.parameters import params_of, with_params
from bytelm.training.checkpoints import Checkpoints
from bytelm.training.step import TrainState

MODEL = ByteTransformerConfig(layers=1, width=16, heads=2, mlp_width=16, dtype="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as train.py leaves it, with checkpoints of steps 1 and 2 whose parameters differ."""
    folder = tmp_path_factory.mktemp("load") / "run"
    config = Config(model=MODEL, data=Data(row=32))
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointsConfig())
    (folder / "config.json").write_text(json.dumps(configs.to_dict(config)))
    shapes = params_of(jax.eval_shape(lambda: models.build(MODEL, jax.random.key(0))))
    for step in (1, 2):
        random = np.random.default_rng(step)
        params = jax.tree.map(lambda x: jax.numpy.asarray(random.standard_normal(x.shape), "float32"), shapes)  # noqa: B023
        checkpoints.save(step, TrainState(step, params, {"none": params["head"]}, None), {}, {})
        checkpoints.wait()
    checkpoints.close()
    return folder


def test_the_last_checkpoint_or_another(run):
    last, two, one = bytelm.load(run), bytelm.load(str(run), step=2), bytelm.load(run, step=1)
    scores = [lm.score([b"some bytes"])[0] for lm in (last, two, one)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 1e-2
    assert (last.context, last.overlap) == (32, 16)
    assert isinstance(last, bytelm.ByteLM)


def test_dtype_of_the_computation(run):
    half, full = (
        bytelm.load(run, dtype=dtype).score([b"some bytes"])[0] for dtype in ("bfloat16", "float32")
    )
    assert np.abs(half - full).max() > 1e-6
    np.testing.assert_allclose(half, full, atol=0.5)


def test_description_counts_what_is_there(run):
    found = describe(run)
    params = bytelm.load(run)._params
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    assert found["of these, tables of symbols"] == 261 * 16 + 16 * 257
    assert found["family"] == "ByteTransformer"
    assert found["checkpoint"] == "step 2 of 1000"


@pytest.mark.parametrize("read", [bytelm.load, describe])
def test_folders_that_are_no_runs(run, tmp_path, read):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a run of this project"):
        read(tmp_path)
    begun = tmp_path / "begun"
    shutil.copytree(run, begun, ignore=shutil.ignore_patterns("1", "2"))
    (begun / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(FileNotFoundError, match="no whole checkpoint in it yet"):
        read(begun)
    (begun / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"not (a config|JSON)"):
        read(begun)


def test_a_step_that_is_not_there(run):
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7; there are 1, 2"):
        bytelm.load(run, step=7)


def test_a_damaged_checkpoint(run, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints" / "2" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(OSError, match="cannot be read"):
        bytelm.load(folder)
    assert np.isfinite(bytelm.load(folder, step=1).score([b"a"])[0]).all()


def test_a_config_that_does_not_fit_the_parameters(run, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(run, folder)
    other = Config(model=dataclasses.replace(MODEL, mlp_width=32), data=Data(row=32))
    (folder / "config.json").write_text(json.dumps(configs.to_dict(other)))
    with pytest.raises((OSError, ValueError)):
        bytelm.load(folder)


def test_a_classifier_that_cuts_sub_words_itself_reads_bytes(tmp_path, monkeypatch):
    """BERT's shape has a tokenizer in its config, but its symbols are bytes; control: one of tokens asks for
    it."""
    sizes = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16, "dtype": "float32"}
    bert = models.BertConfig(units=16, pieces=b"good".hex(), **sizes)
    config = Config(
        model=models.ClassifierConfig(bert, labels=("no", "yes")),
        data=Data(source=Files(label="label"), row=16, tokenizer=Bpe(size=300)),
        samples=Samples(prompts=()),
    )
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    random = np.random.default_rng(0)
    draw = lambda x: random.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, params_of(model))
    saved.save(tmp_path / "bert", config, params)
    text = b"a good day"
    symbols_1T = np.array([[END, *text]])
    model = with_params(model, jax.tree.map(jax.numpy.asarray, params))
    logits_1TC = jax.jit(model.__call__)(symbols_1T, np.ones_like(symbols_1T))
    law_NC = load_classifier(tmp_path / "bert").law([text])
    np.testing.assert_allclose(law_NC[0], jax.nn.log_softmax(logits_1TC[0, 0]), atol=1e-5)
    tokens = models.TokenLMConfig(vocab_size=300, context=16, **sizes)
    of_tokens = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=tokens))
    module = importlib.import_module("bytelm.load")  # bytelm.load itself is its function
    monkeypatch.setattr(module, "parameters", lambda path, step: (of_tokens, {}))
    with pytest.raises((OSError, ValueError), match=r"tokenizer\.json"):
        load_classifier(tmp_path / "bert")
