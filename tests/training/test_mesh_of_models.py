"""Every architecture on every shape of mesh: the losses of one device, and nothing sent that need not be."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny

from bytelm import compiled, models, sharding
from bytelm.config import Config, Data, Optimizer, Training
from bytelm.data import Bpe
from bytelm.lm import LAW, NUM_SYMBOLS
from bytelm.models import (
    BertConfig,
    Byte2WordConfig,
    ByteTransformerConfig,
    LearnYourTokensConfig,
    MaskedByte2WordConfig,
    TokenLMConfig,
    WordPooledConfig,
    pieces,
)
from bytelm.sharding import AXES, MeshShape
from bytelm.training.step import new_state

STEPS = 3
ROW = 22  # no size of a parameter below, whole or cut, is this, nor a number of words
ADAMW = Optimizer(name="adamw", clip=100.0)  # Muon, on a cut mesh, takes longer to compile
WIDE = {"layers": 2, "width": 32, "heads": 8, "mlp_width": 40, "dtype": "float32"}
BYTES = {"byte_width": 16, "byte_heads": 8, "byte_mlp_width": 40, "words": 14, "cap": 6}
READ = {"byte_width": 16, "byte_heads": 8, "words": 14, "cap": 6}
PIECES = {"rule": "runs", "cap": 6, "pieces": pieces.to_text({b"ab", b"cd", b"fa"})}
MODELS = {
    "flat": ByteTransformerConfig(**WIDE),
    "window": ByteTransformerConfig(**WIDE, window=4),
    "words": WordPooledConfig(**WIDE, **BYTES, decoder_layers=1),
    "few words": WordPooledConfig(**WIDE, **BYTES | {"words": 3}, decoder_layers=1),
    "mean": WordPooledConfig(**WIDE, **BYTES, pooling="mean", span=2),
    "attention": WordPooledConfig(**WIDE, **BYTES, pooling="attention", vectors=2),
    "prefix": WordPooledConfig(**WIDE, **BYTES, pooling="prefix", vectors=2),
    "n-grams": WordPooledConfig(**WIDE, **BYTES, ngrams=32, embedding="bits"),
    "lexinvariant": WordPooledConfig(**WIDE, **BYTES, lexinvariant=0.5),
    "learn your tokens": LearnYourTokensConfig(
        **WIDE, words=7, cap=6, vectors=2, encoder_layers=1, encoder_heads=8, decoder_layers=1, dropout=0.0
    ),
    "byte2word": Byte2WordConfig(**WIDE, **READ, queries=2),
    "byte2word, pieces": Byte2WordConfig(**WIDE, **READ | PIECES),
    "hidden words": MaskedByte2WordConfig(**WIDE, **READ | PIECES, share=0.3),
    "bert": BertConfig(**WIDE, **PIECES, share=0.3),
    "tokens": TokenLMConfig(**WIDE, vocab_size=264, context=64),
    "tied tokens": TokenLMConfig(**WIDE, vocab_size=264, context=64, tied=True, window=8, full_layers=(1,)),
}
QUICK = ("words",)
ONE, ALL = (1, 1, 1), (2, 2, 2)
OTHERS = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2), (1, 1, 4), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 4, 1)]


@functools.lru_cache(maxsize=4)  # a compiled step holds many pieces of memory, of which a process has so many
def cut(name, shape, accumulate=1, optimizer=ADAMW):
    """A model's compiled step on a mesh of data x fsdp x tensor devices."""
    mesh = sharding.make_mesh(MeshShape(*shape), devices=jax.devices()[: math.prod(shape)])
    config = Config(
        model=MODELS[name], optimizer=optimizer, training=Training(rows=8, accumulate=accumulate),
        data=Data(row=ROW, tokenizer=Bpe() if "tokens" in name and name != "learn your tokens" else None),
    )  # fmt: skip
    program = compiled.lower_step(config, mesh).compile()
    return SimpleNamespace(config=config, mesh=mesh, program=program)


def batch(config, step):
    found = tiny.batch(step, length=ROW)
    if config.data.tokenizer is None:
        return found
    real, ends = found["documents"] > 0, found["targets"] == 256
    sizes = {"bytes": np.where(real & (found["targets"] < 256), 3, 0).astype(np.uint16), "ends": real & ends}
    return {name: found[name].astype(np.int32) for name in found} | sizes


def losses(name, shape, seed=0, **how):
    """Nats a byte of the first steps; ends of texts are in it."""
    run = cut(name, shape, **how)
    _, optimizer, state = compiled.abstract_state(run.config, run.mesh)
    make = lambda key: new_state(lambda k: models.build(run.config.model, k), optimizer, key, False)  # noqa: E731
    where, found = sharding.named(run.mesh, "batch", None), []
    with jax.set_mesh(run.mesh):
        state = jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, state))(jax.random.key(seed))
        for step in range(STEPS):
            put = jax.device_put(batch(run.config, step), where)
            state, figures = run.program(state, put, np.float32(0.02), jax.random.key(3))
            found.append(float((figures["nats"] + figures["end_nats"]) / figures["bytes"]))
    return found


@functools.cache
def expected(name):
    return losses(name, ONE)


def sent(run):
    """The collectives of a step, and what they move: {(kind, what, axes of the mesh)}."""
    found = compiled.collectives(run.program.as_text(), run.mesh)
    return found, set(compiled.moved(found, run.config, run.mesh))


def too_many(moved):
    """What is sent that need not be."""
    return [key for key in moved if not _expected(*key)]


def _expected(kind, what, axes):
    if what == "activations":  # the sums that end a layer whose heads or units are cut
        return kind == "all-reduce" and axes == ("tensor",)
    if what == "parameters":  # where several axes are cut, XLA takes roundabout ways to the same
        return "fsdp" in axes or "tensor" in axes or kind == "collective-permute"
    return kind in ("all-reduce", "reduce-scatter")  # of gradients and scalars


def touch_tables(found):
    """Operations on the tables of symbols, coming in and going out, other than sums of their gradients."""
    return [
        one
        for one in found
        for shape, _ in one.parts
        if {LAW, LAW + 1, NUM_SYMBOLS} & set(shape)
        and not (one.kind in ("all-reduce", "reduce-scatter") and "transpose(jvp" in one.name)
    ]


@pytest.mark.parametrize("name", QUICK)
def test_cut_along_all_axes(name):
    found = losses(name, ALL)
    np.testing.assert_allclose(found, expected(name), rtol=1e-5)
    assert found[-1] < found[0] - 0.05  # it learns


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_sent_that_need_not_be(name):
    run = cut(name, ALL)
    found, moved = sent(run)
    assert too_many(moved) == []
    if run.config.data.tokenizer is None:
        assert touch_tables(found) == []
    # All that it does need: parameters, gradients along data and fsdp, activations along tensor, the loss.
    there = {(what, axis) for _, what, axes in moved for axis in axes}
    assert {("parameters", "fsdp"), ("gradients", "data"), ("gradients", "fsdp")} <= there
    assert {("activations", "tensor"), ("scalars", "data")} <= there


def test_control_a_constraint_too_many_is_found(monkeypatch):
    """The stream between layers made whole, as a wrong constraint would."""
    assert sent(cut("flat", (1, 2, 1)))[1] == {
        ("all-gather", "parameters", ("fsdp",)),
        ("all-reduce", "gradients", ("fsdp",)),
        ("all-reduce", "scalars", ("fsdp",)),
    }
    whole = lambda x, *names: jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec())  # noqa: E731
    monkeypatch.setattr(sharding, "constrain", whole)
    _, moved = sent(cut.__wrapped__("flat", (1, 2, 1)))
    assert ("all-gather", "activations", ("fsdp",)) in too_many(moved)


@pytest.mark.slow
@pytest.mark.parametrize("shape", OTHERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_shape(name, shape):
    np.testing.assert_allclose(losses(name, shape), expected(name), rtol=1e-5)
    found, moved = sent(cut(name, shape))
    assert too_many(moved) == []
    if not isinstance(MODELS[name], TokenLMConfig):
        assert touch_tables(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_every_model_cut_along_all_axes(name):
    test_cut_along_all_axes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["words", "tokens"])
def test_in_parts_and_with_muon(name):
    np.testing.assert_allclose(losses(name, ALL, accumulate=2), expected(name), rtol=1e-5)
    muon = Optimizer(clip=100.0)
    np.testing.assert_allclose(
        losses(name, ALL, optimizer=muon), losses(name, ONE, optimizer=muon), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["words", "tokens"])
def test_control_another_seed(name):
    assert np.abs(np.array(losses(name, ONE, seed=1)) / expected(name) - 1).max() > 1e-3


# ---- memory --------------------------------------------------------------------------------------------


def held(config, devices):
    """Bytes of the state a device, cut over so many along fsdp; of those, what is whole on each."""
    mesh = jax.sharding.AbstractMesh((1, devices, 1), AXES)
    _, _, state = compiled.abstract_state(config, mesh)
    whole = [x for x in jax.tree.leaves(state) if x.sharding.is_fully_replicated]
    return compiled.bytes_a_device(state), compiled.bytes_a_device(whole) if devices > 1 else 0


def test_memory_falls_with_the_devices():
    from pathlib import Path

    from bytelm.training.launch import read_config

    config = read_config("words_1b", Path(__file__).parents[2] / "configs")
    alone, _ = held(config, 1)
    for devices in (8, 64, 256):
        here, whole = held(config, devices)
        assert here == whole + (alone - whole) // devices
        assert whole < 0.002 * alone


@pytest.mark.slow
def test_the_compiler_holds_what_the_shardings_say():
    for shape in (ONE, ALL):
        run = cut("tokens", shape)
        _, _, state = compiled.abstract_state(run.config, run.mesh)
        rest = compiled.bytes_a_device(compiled.abstract_batch(run.config, run.mesh))
        arguments = run.program.memory_analysis().argument_size_in_bytes
        assert 0 <= arguments - compiled.bytes_a_device(state) - rest < 4096  # the rate, the key, alignment
