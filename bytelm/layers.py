"""Parameters and the small layers that the models share.

A model is a tree of `flax.nnx` modules, used as a plain pytree: `jax.jit`, `jax.grad` and `lax.scan` see
only arrays. Layers of one kind are stacked (`stack`) and scanned. Everything else in the project (the
optimizer, checkpoints, sharding) knows the parameters as a nested dictionary of arrays, which
`params_of` and `with_params` convert to and from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from bytelm import sharding

Params = dict[str, Any]
M = TypeVar("M", bound=nnx.Module)


def param(
    key: jax.Array | None,
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
    *,
    inputs: int | None = None,
    scale: float = 1.0,
) -> nnx.Param:
    """One declaration of a parameter: its shape, how it is cut over the mesh, how it starts.

    Args:
      key: for the random start; None for a constant one, `scale` everywhere.
      shape: float32 array of this shape.
      names: a name of `bytelm.sharding.RULES` for each axis.
      inputs: for a matrix, how many leading axes are summed over when it is applied: the start is normal
        with variance ``scale**2 / fan_in``, and the optimizer treats it as a matrix. None for tables
        (normal, standard deviation `scale`) and vectors.
      scale: see above.
    """
    if key is None:
        value = jnp.full(shape, scale, jnp.float32)
    else:
        fan_in = 1 if inputs is None else math.prod(shape[:inputs])
        value = jax.random.normal(key, shape, jnp.float32) * (scale / math.sqrt(fan_in))
    return nnx.Param(value, names=names, inputs=inputs, rate=1.0)


@jax.custom_vjp
def linear(x_I: jax.Array, w_IO: jax.Array) -> jax.Array:
    """``x @ w``, [..., I] times [I, O], in the type of `x`.

    Its own rule for the gradient of `w` only chooses which of the two activations is transposed for the
    product: the narrower. XLA's CPU code transposes the first operand, together with all the arithmetic
    that made it, in strides of its width; for the hidden layer of a feed-forward block that took longer
    than the product itself.
    """
    return x_I @ w_IO.astype(x_I.dtype)


def _linear_forward(x_I, w_IO):
    return linear(x_I, w_IO), (x_I, w_IO)


def _linear_backward(saved, grad_O):
    x_I, w_IO = saved
    dx_I = grad_O @ w_IO.astype(grad_O.dtype).T
    x_RI, grad_RO = x_I.reshape(-1, x_I.shape[-1]), grad_O.reshape(-1, grad_O.shape[-1])
    narrow = w_IO.shape[0] <= w_IO.shape[1]
    dw_IO = jnp.einsum("RI,RO->IO", x_RI, grad_RO) if narrow else jnp.einsum("RO,RI->OI", grad_RO, x_RI).T
    return dx_I, dw_IO.astype(w_IO.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def split_heads(x_BTD: jax.Array, w_DNH: jax.Array) -> jax.Array:
    """Projects into heads: [B, T, N, H]."""
    y_BTM = linear(x_BTD, rearrange(w_DNH, "D N H -> D (N H)"))
    return rearrange(y_BTM, "B T (N H) -> B T N H", H=w_DNH.shape[-1])


def merge_heads(x_BTNH: jax.Array, w_NHD: jax.Array) -> jax.Array:
    """Projects out of heads: [B, T, D]."""
    return linear(rearrange(x_BTNH, "B T N H -> B T (N H)"), rearrange(w_NHD, "N H D -> (N H) D"))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        self.scale = param(None, (width,), (None,))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        return (x32 * self.scale[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """Gated feed-forward layer ``(silu(x A) * x B) C`` (Shazeer, arXiv 2002.05202, eq. 6)."""

    def __init__(self, width: int, hidden: int, key: jax.Array):
        a, b = jax.random.split(key)
        self.gate = param(a, (width, hidden), ("embed", "mlp"), inputs=1)
        self.up = param(b, (width, hidden), ("embed", "mlp"), inputs=1)
        self.down = param(None, (hidden, width), ("mlp", "embed"), inputs=1, scale=0.0)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = jax.nn.silu(linear(x_BTD, self.gate[...])) * linear(x_BTD, self.up[...])
        return linear(h_BTF, self.down[...])


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its entries zero and the rest scaled up; `x` itself without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def rope(x_BTNH: jax.Array, position_BT: jax.Array, base: float) -> jax.Array:
    """Rotary positions (Su et al., arXiv 2104.09864), halves of the head rotated against each other.

    `position_BT` may be [T] or [1, T] where rows share their positions.
    """
    half = x_BTNH.shape[-1] // 2
    frequency_h = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BT1h = position_BT[..., None, None].astype(jnp.float32) * frequency_h
    cos, sin = jnp.cos(angle_BT1h), jnp.sin(angle_BT1h)
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BTNH.dtype)


# ---- the layer of all our Transformers -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a `Block`."""

    width: int  # D
    heads: int  # N
    key_heads: int  # K
    head_width: int  # H
    mlp_width: int  # F
    rope_base: float
    dropout: float

    @property
    def cuts(self) -> dict[str, tuple[str, int]]:
        """What a mesh cuts: name -> (name of `bytelm.sharding.RULES`, size)."""
        return {
            "heads": ("heads", self.heads),
            "key_heads": ("heads", self.key_heads),
            "width": ("embed", self.width),
            "mlp_width": ("mlp", self.mlp_width),
        }

    def flops(self, seen: float) -> float:
        """Operations of the forward pass, a position that sees `seen` positions on average."""
        D, N, K, H = self.width, self.heads, self.key_heads, self.head_width
        return 2.0 * (D * H * 2 * (N + K) + 3 * D * self.mlp_width + 2 * N * H * seen)


def seen(length: int, window: int | None = None) -> float:
    """How many positions one of `length` sees on average, itself and earlier ones, at most `window`."""
    w = min(window or length, length)
    return (w * (w + 1) / 2 + (length - w) * w) / length


class Block(nnx.Module):
    """One pre-norm layer: attention, then SwiGLU, each added to the stream."""

    def __init__(self, sizes: Sizes, key: jax.Array):
        D, N, K, H = sizes.width, sizes.heads, sizes.key_heads, sizes.head_width
        keys = jax.random.split(key, 4)
        self.norm_attention = RMSNorm(D)
        self.query = param(keys[0], (D, N, H), ("embed", "heads", None), inputs=1)
        self.key = param(keys[1], (D, K, H), ("embed", "heads", None), inputs=1)
        self.value = param(keys[2], (D, K, H), ("embed", "heads", None), inputs=1)
        # Starting at zero, a layer adds nothing to the stream until it has learned what to add.
        self.out = param(None, (N, H, D), ("heads", None, "embed"), inputs=2, scale=0.0)
        self.norm_query, self.norm_key = RMSNorm(H), RMSNorm(H)
        self.norm_mlp = RMSNorm(D)
        self.mlp = SwiGLU(D, sizes.mlp_width, keys[3])
        self.sizes = sizes

    def project(self, x_BTD: jax.Array, position_BT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H] of normed inputs, positions applied."""
        base, h_BTD = self.sizes.rope_base, self.norm_attention(x_BTD)
        q_BTNH, k_BTKH, v_BTKH = (split_heads(h_BTD, w[...]) for w in (self.query, self.key, self.value))
        q_BTNH = rope(self.norm_query(q_BTNH), position_BT, base)
        k_BTKH = rope(self.norm_key(k_BTKH), position_BT, base)
        return q_BTNH, k_BTKH, v_BTKH

    def finish(self, x_BTD: jax.Array, a_BTNH: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The rest of the layer, given what attention found."""
        rate = self.sizes.dropout
        one, two = (None, None) if key is None else jax.random.split(key)
        a_BTD = merge_heads(a_BTNH, self.out[...])
        x_BTD = x_BTD + dropout(a_BTD, rate, one)
        return x_BTD + dropout(self.mlp(self.norm_mlp(x_BTD)), rate, two)


def compute_dtype(name: str) -> Any:
    """The type that a config's ``dtype`` means; "auto" is float32 on CPU and bfloat16 elsewhere."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def documents_or_one(documents_BT: jax.Array | None, symbols_BT: jax.Array) -> jax.Array:
    """The documents of symbols, int32 [B, T]; 1 everywhere where they are not told apart."""
    return jnp.ones(symbols_BT.shape, jnp.int32) if documents_BT is None else documents_BT


def remat(layer: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`layer`, of which the backward pass computes again all ("full"), all but products with weights
    ("dots"), or nothing ("none")."""
    if what == "none":
        return layer
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(layer, policy=policy if what == "dots" else None)


# ---- modules as trees ------------------------------------------------------------------------------------


def stack(make: Callable[[jax.Array], M], layers: int, key: jax.Array) -> M:
    """`layers` modules as one whose parameters have a leading axis [L], for `lax.scan`."""
    return jax.vmap(make)(jax.random.split(key, layers))


def _declared(module: nnx.Module) -> list[tuple[tuple[str, ...], nnx.Variable]]:
    found = jax.tree_util.tree_flatten_with_path(module, is_leaf=lambda x: isinstance(x, nnx.Variable))[0]
    return [(tuple(_name(k) for k in path), v) for path, v in found]


def _name(key: Any) -> str:
    """The name of an attribute, or the place in a list."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None))))


def _nested(flat: list[tuple[tuple[str, ...], Any]]) -> Params:
    tree: Params = {}
    for path, value in flat:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested dictionary as one whose keys are paths, ``blocks/3/mlp/up``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def nested(paths: Mapping[str, Any]) -> Params:
    """The inverse of `flat`."""
    tree: Params = {}
    for path, value in paths.items():
        *outer, name = path.split("/")
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[name] = value
    return tree


def params_of(module: nnx.Module) -> Params:
    """The parameters of `module` as a nested dictionary of arrays (or of whatever stands in for them)."""
    return _nested([(path, v.get_value()) for path, v in _declared(module)])


def with_params(module: M, params: Params) -> M:
    """`module` with `params` in place of its own; the module's may be abstract."""

    def at(path: tuple[str, ...]) -> Any:
        node: Any = params
        for name in path:
            node = node[name]
        return node

    leaves = [at(path) for path, _ in _declared(module)]
    return jax.tree.unflatten(jax.tree.structure(module), leaves)


def specs_of(module: nnx.Module) -> Params:
    """How each parameter is cut over the mesh: `PartitionSpec`s in the shape of `params_of`."""
    return _nested(
        [
            (p, sharding.spec(v.get_metadata()["names"], len(v.get_value().shape)))
            for p, v in _declared(module)
        ]
    )


def matrices_of(module: nnx.Module) -> Params:
    """For each parameter the axes it sums over and those it makes, ``(inputs, outputs)``; None if no matrix.

    Axes count from the end (negative), so that they hold for stacked layers too.
    """

    def axes(v: nnx.Variable) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        meta = v.get_metadata()
        if meta["inputs"] is None:
            return None
        n = len(meta["names"])
        return tuple(range(-n, meta["inputs"] - n)), tuple(range(meta["inputs"] - n, 0))

    return _nested([(path, axes(v)) for path, v in _declared(module)])


def paced(module: M, rate: float) -> M:
    """`module`, whose parameters move at `rate` times the learning rate. Changes it in place."""
    for _, v in _declared(module):
        v.set_metadata(rate=rate)
    return module


def rates_of(module: nnx.Module) -> Params:
    """For each parameter the multiple of the learning rate at which it moves."""
    return _nested([(path, v.get_metadata()["rate"]) for path, v in _declared(module)])


def on_one_device(params: Params) -> Params:
    """A copy of `params` on this process's first device, for use outside a mesh."""
    return jax.device_put(params, jax.local_devices()[0])
