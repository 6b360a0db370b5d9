"""The tokenized decoder: its two forms, documents, counting, and sizes that do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.models.rotary import Rope, frequencies
from bytelm.models.token_lm import TokenTransformer, unstack
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import params_of, specs_of, with_params
from bytelm.tokenized import abstract

V, T = 31, 20
SIZES = {
    **{"vocab_size": V, "layers": 3, "width": 16, "heads": 4, "key_heads": 2, "mlp_width": 24, "context": 32},
    "dtype": "float32",
}


def stacked(seed=0, **changes):
    """A model in its stacked form, all of its parameters at work, and the parameters."""
    config = TokenLMConfig(**SIZES | changes)
    model = jax.eval_shape(lambda: TokenTransformer(config, jax.random.key(0)))
    random = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.4, "float32"), params_of(model)
    )
    return with_params(model, params), params


def tokens(seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, T)).astype(np.int32)


@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 4, "full_layers": (1,)}, {"rope": None, "tied": True, "attention_softcap": 2.0}],
    ids=["plain", "mixed windows", "softcap"],
)
def test_stacked_equals_one_by_one(changes):
    model, params = stacked(**changes)
    one_by_one = with_params(abstract(model.config), unstack(params))
    documents_BT = np.digitize(np.arange(T), [7, 13])[None].repeat(2, axis=0)
    expected, found = (jax.jit(m.__call__)(tokens(), documents_BT) for m in (model, one_by_one))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if changes.get("window"):  # the layer without a window is where it should be
        other = with_params(abstract(TokenLMConfig(**SIZES | {"window": 4})), unstack(params))
        assert np.abs(jax.jit(other.__call__)(tokens(), documents_BT) - expected).max() > 1e-3


@pytest.mark.parametrize("changes", [{}, {"window": 4, "full_layers": (0,)}], ids=["plain", "mixed windows"])
def test_causal_and_documents_apart(changes):
    """What comes later, or in another document, changes nothing; what came before does."""
    model, _ = stacked(**changes)
    documents_BT = np.where(np.arange(T) < 9, 1, 2)[None].repeat(2, axis=0)
    run = jax.jit(model.__call__)
    before, at = run(tokens(), documents_BT), 9
    changed_BT = tokens()
    changed_BT[:, at] = (changed_BT[:, at] + 1) % V
    after = run(changed_BT, documents_BT)
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    assert np.abs(before[:, at + 1] - after[:, at + 1]).max() > 1e-3
    changed_BT = tokens()
    changed_BT[:, 3] = (changed_BT[:, 3] + 1) % V
    after = run(changed_BT, documents_BT)
    np.testing.assert_array_equal(before[:, at:], after[:, at:])
    assert np.abs(before[:, 4] - after[:, 4]).max() > 1e-3


def test_flops_are_what_the_compiler_counts():
    config = TokenLMConfig(
        512, layers=1, width=256, heads=1, head_width=64, context=128, gated=False, dtype="float32"
    )
    model = jax.eval_shape(lambda: TokenTransformer(config, jax.random.key(0)))
    row = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    counted = jax.jit(type(model).__call__).lower(model, row).compile().cost_analysis()["flops"] / 128
    assert 0.98 < counted / TokenTransformer.flops(config, 128) < 1.15
    near, far = (
        TokenTransformer.flops(TokenLMConfig(**SIZES | {"window": 8}), length) for length in (512, 1024)
    )
    assert far < 1.05 * near


def test_partitions_fit_parameters():
    config = TokenLMConfig(**SIZES | {"rope": None, "qkv_bias": True, "mlp_bias": True, "norm": "layer"})
    model = jax.eval_shape(lambda: TokenTransformer(config, jax.random.key(0)))
    shapes, specs = params_of(model), specs_of(model)
    for x, spec in zip(jax.tree.leaves(shapes), jax.tree.leaves(specs), strict=True):
        assert len(spec) <= x.ndim


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "llama3", "yarn"])
def test_stretched_positions(scaling):
    """Stretched, no pair turns faster than before and some turn slower; in a short row "dynamic" is plain."""
    plain, _ = frequencies(Rope(), 16, 0)
    stretched, _ = frequencies(Rope(scaling=scaling, factor=4.0, trained=64), 16, 128)
    assert (stretched <= plain * (1 + 1e-6)).all()
    assert (stretched < plain * 0.9).any()
    if scaling == "dynamic":
        short, _ = frequencies(Rope(scaling=scaling, factor=4.0, trained=64), 16, 64)
        np.testing.assert_array_equal(short, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "model.vocab_size must be positive, got 0"),
        ({"width": 10, "heads": 4}, "model.width 10 is no multiple of model.heads 4"),
        ({"head_width": 5}, "5 of a head's 5 turn"),
        ({"heads": 4, "key_heads": 3}, "no multiple of model.key_heads 3"),
        ({"dropout": 1.0}, "model.dropout must be in"),
        ({"activation": "mish"}, "model.activation must be one of"),
        ({"norm": "batch"}, "model.norm must be"),
        ({"layers": 2, "full_layers": (2,)}, "the layers are 0..1"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        TokenLMConfig(**fields)


@pytest.mark.parametrize("fields", [{"scaling": "ntk"}, {"share": 0.0}, {"scaling": "llama3", "low": 5.0}])
def test_positions_that_cannot_be(fields):
    with pytest.raises(ValueError, match="rope"):
        Rope(**fields)
