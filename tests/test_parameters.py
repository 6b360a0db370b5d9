"""How parameters are declared, and what is known of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from bytelm.layers import RMSNorm
from bytelm.parameters import matrices_of, param, params_of, specs_of, stack, with_params


class Small(nnx.Module):
    """A table, stacked matrices of both kinds, a vector."""

    def __init__(self, key):
        self.table = param(key, (11, 8), (None, None), scale=0.5)
        self.blocks = stack(Heads, 3, key)


class Heads(nnx.Module):
    def __init__(self, key):
        a, b = jax.random.split(key)
        self.query = param(a, (8, 4, 16), ("embed", "heads", None), inputs=1)
        self.out = param(b, (4, 16, 8), ("heads", None, "embed"), inputs=2, scale=3.0)
        self.norm = RMSNorm(8)


@pytest.fixture(scope="module")
def small():
    return Small(jax.random.key(0))


def test_params_round_trip(small):
    params = params_of(small)
    assert {k: v.shape for k, v in params["blocks"].items() if k != "norm"} == {
        "query": (3, 8, 4, 16),
        "out": (3, 4, 16, 8),
    }
    assert params["blocks"]["norm"]["scale"].shape == (3, 8)
    doubled = jax.tree.map(lambda x: 2 * x, params)
    abstract = jax.eval_shape(Small, jax.random.key(0))
    for module in (small, abstract):
        again = params_of(with_params(module, doubled))
        assert jax.tree.structure(again) == jax.tree.structure(doubled)
        jax.tree.map(np.testing.assert_array_equal, again, doubled)
    jax.tree.map(  # the module itself is as before
        np.testing.assert_array_equal, params_of(small), params
    )
    with pytest.raises(KeyError, match="table"):
        with_params(small, {"blocks": params["blocks"]})


def test_layers_of_a_stack_differ_and_start_with_the_declared_scale(small):
    params = params_of(small)["blocks"]
    assert np.abs(params["query"][0] - params["query"][1]).max() > 0.1
    np.testing.assert_allclose(params["query"].std(), 8**-0.5, rtol=0.1)
    np.testing.assert_allclose(params["out"].std(), 3 * 64**-0.5, rtol=0.1)
    np.testing.assert_allclose(params_of(small)["table"].std(), 0.5, rtol=0.2)


def test_specs_leave_stacked_axes_whole(small):
    specs = specs_of(small)
    assert specs["blocks"]["query"] == P(None, "fsdp", "tensor", None)
    assert specs["blocks"]["out"] == P(None, "tensor", None, "fsdp")
    assert specs["table"] == P(None, None)


def test_matrices_count_from_the_end(small):
    matrices = matrices_of(small)
    assert matrices["blocks"]["query"] == ((-3,), (-2, -1))
    assert matrices["blocks"]["out"] == ((-3, -2), (-1,))
    assert matrices["table"] is None
    assert matrices["blocks"]["norm"]["scale"] is None
