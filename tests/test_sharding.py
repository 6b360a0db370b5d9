"""The mesh, and what can be cut over it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bytelm import sharding
from bytelm.attention import attend
from bytelm.sharding import MeshShape, make_mesh


def test_axes_are_always_there():
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshShape(2, -1, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_sizes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="mesh: "):
        make_mesh(MeshShape(*shape))


def test_cuts_that_are_not_even_name_the_size():
    mesh = make_mesh(MeshShape(2, 2, 2))
    sharding.check_fits(mesh, {"rows": ("batch", 4), "heads": ("heads", 6)})
    with pytest.raises(ValueError, match=r"rows = 6 cannot be cut in 4 equal parts along data\+fsdp"):
        sharding.check_fits(mesh, {"rows": ("batch", 6)})
    with pytest.raises(ValueError, match=r"heads = 3 cannot be cut in 2 equal parts along tensor"):
        sharding.check_fits(mesh, {"rows": ("batch", 4), "heads": ("heads", 3)})


def test_spec():
    assert sharding.spec(("embed", None, "mlp")) == P("fsdp", None, "tensor")
    assert sharding.spec(("embed", "heads"), ndim=3) == P(None, "fsdp", "tensor")
    assert sharding.spec(("batch",)) == P(("data", "fsdp"))


def test_attention_needs_nothing_from_other_devices():
    """The same values on a mesh as without, and no collective in the compiled program."""
    q_BTNH, k_BTNH, v_BTNH = jax.random.normal(jax.random.key(0), (3, 4, 10, 2, 4))
    documents_BT = jnp.digitize(jnp.arange(10), jnp.array([4]))[None].repeat(4, axis=0)
    mesh = make_mesh(MeshShape(2, 2, 2))
    rows = sharding.named(mesh, "batch", None, "heads", None)
    cut = jax.device_put((q_BTNH, k_BTNH, v_BTNH), rows)
    documents = jax.device_put(documents_BT, sharding.named(mesh, "batch", None))
    with jax.set_mesh(mesh):
        compiled = jax.jit(attend, out_shardings=rows).lower(*cut, documents).compile()
        found = compiled(*cut, documents)
        gathered = jax.jit(lambda x: x + 1, out_shardings=sharding.named(mesh)).lower(cut[0]).compile()
    assert found.sharding.is_equivalent_to(rows, 4)
    np.testing.assert_allclose(found, attend(q_BTNH, k_BTNH, v_BTNH, documents_BT), atol=1e-6)
    assert not collectives(compiled)
    assert collectives(gathered)  # the search does find one


def collectives(compiled):
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    return [name for name in names if name in compiled.as_text()]
