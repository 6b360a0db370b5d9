"""Configs: to JSON and back, and what may differ between a checkpoint and the run that goes on from it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bytelm import config as configs
from bytelm import models
from bytelm.config import Checkpoints, Config, Data, Evaluation, Samples, Training, check_same
from bytelm.data import Bpe, Files, Fim, Mix, Stdlib
from bytelm.models import ByteTransformerConfig, ClassifierConfig, TokenLMConfig
from bytelm.sharding import MeshShape
from bytelm.training.launch import read_config

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
RICH = Config(
    data=Data(source=Mix((Stdlib(), Files(train=("a",), valid=("b",))), (0.5, 0.5))),
    samples=Samples(prompts=("a", "é")),
    training=Training(ema=0.9, profile=(3, 5)),
)


def with_model(kind):
    if kind is ClassifierConfig:
        data = Data(source=Files(train=("a",), label="label"))
        return Config(model=kind(labels=("a", 1)), data=data, samples=Samples(prompts=()))
    tokenizer = Bpe(size=300, longest=4) if kind is TokenLMConfig else None
    return Config(model=kind(), data=Data(tokenizer=tokenizer, fim=Fim(rate=0.5)))


@pytest.mark.parametrize("config", [Config(), RICH, *map(with_model, models.CONSTRUCTORS)])
def test_json_round_trip(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configs.to_dict(config), allow_nan=False))
    assert configs.read(path) == config


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs(path):
    assert isinstance(read_config(path.stem, path.parent), Config)
    assert f"train.py {path.stem}" in path.read_text() or path.stem == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a config"),
        ('{"type": "Config", "data": 5}', "not a config"),
        ("[]", "not the config of a run"),
        ('{"type": "Config", "modell": 3}', "config: Config has no field 'modell'"),
        ('{"type": "Confik"}', "Confik"),
        (
            '{"type": "Config", "training": {"type": "Training", "steps": 0}}',
            "training.steps must be at least",
        ),
    ],
)
def test_what_is_no_config(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        configs.read(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training": Training(rows=6, accumulate=4)}, "training.rows 6 is no multiple of"),
        ({"training": Training(ema=1.0)}, "training.ema"),
        ({"data": Data(row=0)}, "data.row must be at least 1, got 0"),
        ({"checkpoints": Checkpoints(keep_last=0)}, "checkpoints.keep_last"),
        ({"evaluation": Evaluation(rows=0)}, "evaluation.rows"),
    ],
)
def test_values_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


CLASSIFIER = with_model(ClassifierConfig)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": Data(source=Files(train=("a",)))}, "a classifier needs documents with labels"),
        ({"data": Data()}, "a classifier needs documents with labels"),
        ({"data": replace(CLASSIFIER.data, piece=64)}, "data.piece must be None"),
        ({"data": replace(CLASSIFIER.data, fim=Fim(rate=0.5))}, "data.fim.rate 0"),
        ({"samples": Samples()}, r"samples.prompts must be \(\)"),
        ({"model": ClassifierConfig(backbone=TokenLMConfig())}, "a TokenLMConfig reads tokens"),
    ],
)
def test_what_a_classifier_cannot_have(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CLASSIFIER, **fields)


def test_a_classifier_begins_from_its_backbone_or_from_itself():
    own = Config(model=CLASSIFIER.model.backbone)
    check_same(own, CLASSIFIER, Path("run"), weights_only=True)
    check_same(CLASSIFIER, CLASSIFIER, Path("run"), weights_only=True)
    dropped = replace(own, model=replace(own.model, dropout=0.3))
    check_same(dropped, CLASSIFIER, Path("run"), weights_only=True)
    with pytest.raises(ValueError, match=r"model\.backbone\.width = 64, this run has 512"):
        check_same(Config(model=ByteTransformerConfig(width=64)), CLASSIFIER, Path("run"), weights_only=True)
    others = replace(CLASSIFIER, model=replace(CLASSIFIER.model, labels=("a", "b")))
    with pytest.raises(ValueError, match=r"model\.labels"):
        check_same(others, CLASSIFIER, Path("run"), weights_only=True)
    with pytest.raises(ValueError, match="model = "):
        check_same(CLASSIFIER, own, Path("run"), weights_only=True)


BASE = Config()
BIGGER = replace(BASE, model=replace(BASE.model, width=64))


def test_what_may_differ_on_resume():
    free = replace(
        BASE, mesh=MeshShape(1, 1, 8), training=replace(BASE.training, steps=5, log_every=3),
        checkpoints=Checkpoints(every=7), model=replace(BASE.model, remat="full"),
    )  # fmt: skip
    check_same(BASE, free, Path("run"))
    for other, message in [
        (BIGGER, "model.width = 512, this run has 64"),
        (replace(BASE, training=replace(BASE.training, rows=16)), "training.rows = 8, this run has 16"),
        (replace(BASE, data=Data(source=Files(("x",)))), "data.source"),
        (replace(BASE, optimizer=replace(BASE.optimizer, name="adamw")), "optimizer.name"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_same(BASE, other, Path("run"))


def test_what_may_differ_when_only_the_parameters_are_taken():
    other = replace(
        BASE, data=Data(row=64), training=Training(seed=5), model=replace(BASE.model, dropout=0.5)
    )
    check_same(BASE, other, Path("run"), weights_only=True)
    with pytest.raises(ValueError, match="width = 512"):
        check_same(BASE, BIGGER, Path("run"), weights_only=True)


def test_differences_name_every_field():
    other = replace(BIGGER, data=Data(row=64))
    assert {name for name, _, _ in configs.differences(BASE, other)} == {"model.width", "data.row"}
    assert configs.differences(BASE, dataclasses.replace(BASE)) == []
