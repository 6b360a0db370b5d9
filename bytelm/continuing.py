"""Generating on the device: a loop that draws a byte, reads it, and draws the next, for a batch of rows.

`make_grow` builds it from a model's ``advance``. Rows draw from streams of their own; rows that wait for the
model to read a byte draw nothing meanwhile. What the device cannot do, the loop leaves to its caller: it ends
when every row is done, has grown by `CHUNK` bytes, or is full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bytelm.lm import END, Sampling

CHUNK = 64  # bytes between two looks of the host


class Grown(NamedTuple):
    """Rows after a call of the loop."""

    cache: Any
    law_BV: Any  # log p of the next symbol, of rows that are neither done nor full
    out_BN: Any  # new bytes
    size_B: Any  # how many
    done_B: Any  # bool: drew end of text, or reached the limit
    full_B: Any  # bool: no room in the window for the last new byte, which is not read yet
    bad_B: Any  # bool: the law had no finite maximum


class Settings(NamedTuple):
    """A `Sampling` as numbers; those that do nothing are never looked at."""

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any

    @classmethod
    def of(cls, s: Sampling) -> Settings:
        # Below it float32 makes of a temperature zero, which divides to NaN.
        temperature = max(s.temperature, 1e-30)
        return cls(temperature, s.top_k or 0, 1.0 if s.top_p is None else s.top_p, s.min_p or 0.0)


def make_grow(advance: Callable[..., Any], fits: Callable[..., jax.Array]) -> Callable[..., Grown]:
    """The loop, to be compiled with `greedy` and `filtered` static.

    Args:
      advance: ``(cache, symbol_B, active_B) -> (logits_BV, cache, done_B)``; rows that are not done want the
        symbol again.
      fits: ``(cache, symbol_B) -> bool [B]``.
    """

    def grow(
        cache: Any, law_BV: jax.Array, live_B: jax.Array, left_B: jax.Array, seed: jax.Array,
        before_B: jax.Array, settings: Settings, *, greedy: bool, filtered: bool,
    ) -> Grown:  # fmt: skip
        """Lets rows of `live_B` grow by at most `left_B` bytes; `before_B` they have drawn already."""
        B = len(live_B)
        row_B = jnp.arange(B)
        key_B = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(row_B)

        def going(carry: Any) -> jax.Array:
            grown, pending_B, _ = carry
            wants_B = pending_B | (grown.size_B < CHUNK)  # to read, or to draw
            return jnp.any(~grown.done_B & ~grown.full_B & wants_B)

        def step(carry: Any) -> Any:
            grown, pending_B, symbol_B = carry
            draws_B = ~grown.done_B & ~pending_B & (grown.size_B < CHUNK)
            if greedy:
                drawn_B = jnp.argmax(grown.law_BV, axis=-1)
            else:
                keys_B = jax.vmap(jax.random.fold_in)(key_B, before_B + grown.size_B)
                drawn_B = draw(grown.law_BV, keys_B, settings, filtered)
            symbol_B = jnp.where(draws_B, drawn_B.astype(jnp.int32), symbol_B)
            bad_B = grown.bad_B | (draws_B & ~jnp.isfinite(jnp.max(grown.law_BV, axis=-1)))
            writes_B = draws_B & (symbol_B != END)
            at_B = jnp.minimum(grown.size_B, CHUNK - 1)
            out_BN = grown.out_BN.at[row_B, at_B].set(
                jnp.where(writes_B, symbol_B, grown.out_BN[row_B, at_B])
            )
            size_B = grown.size_B + writes_B
            done_B = grown.done_B | bad_B | (draws_B & ((symbol_B == END) | (size_B >= left_B)))
            pending_B = (pending_B | draws_B) & ~done_B
            full_B = grown.full_B | (draws_B & pending_B & ~fits(grown.cache, symbol_B))
            logits_BV, cache, read_B = advance(grown.cache, symbol_B, pending_B & ~full_B)
            law_BV = jnp.where(read_B[:, None], jax.nn.log_softmax(logits_BV), grown.law_BV)
            return Grown(cache, law_BV, out_BN, size_B, done_B, full_B, bad_B), pending_B & ~read_B, symbol_B

        none_B = jnp.zeros(B, bool)
        zero_B = jnp.zeros(B, jnp.int32)
        start = Grown(
            cache, law_BV, jnp.zeros((B, CHUNK), jnp.int32), zero_B, ~live_B | (left_B <= 0), none_B, none_B
        )
        return jax.lax.while_loop(going, step, (start, none_B, zero_B))[0]

    return grow


def draw(law_BV: jax.Array, keys_B: jax.Array, settings: Settings, filtered: bool) -> jax.Array:
    """A symbol from each law, adjusted as `bytelm.generate.adjusted` does it."""
    scaled_BV = (law_BV - jnp.max(law_BV, axis=-1, keepdims=True)) / settings.temperature
    if not filtered:
        return jax.vmap(jax.random.categorical)(keys_B, scaled_BV)
    order_BV = jnp.argsort(-scaled_BV, axis=-1, stable=True)
    p_BV = jnp.exp(jnp.take_along_axis(scaled_BV, order_BV, axis=-1))
    rank_V = jnp.arange(p_BV.shape[-1])
    p_BV = jnp.where((settings.top_k == 0) | (rank_V < settings.top_k), p_BV, 0.0)
    mass_BV = jnp.cumsum(p_BV, axis=-1)
    beyond_BV = (settings.top_p < 1.0) & (mass_BV - p_BV >= settings.top_p * mass_BV[:, -1:])
    p_BV = jnp.where(beyond_BV, 0.0, p_BV)
    p_BV = jnp.where(p_BV < settings.min_p * p_BV[:, :1], 0.0, p_BV)
    place_B = jax.vmap(jax.random.categorical)(keys_B, jnp.log(p_BV))
    return jnp.take_along_axis(order_BV, place_B[:, None], axis=-1)[:, 0]


def cut_at_stop(text: bytearray, known: int, stop: tuple[bytes, ...]) -> bool:
    """Cuts `text` before the first stop string that ends after its first `known` bytes; whether there is one.

    Where one byte completes several, the longest is cut off, as in `bytelm.generate.generate`.
    """
    found = []
    for s in stop:
        at = text.find(s, max(known - len(s) + 1, 0))
        if at >= 0:
            found.append((at + len(s), at))
    if not found:
        return False
    end = min(found)[0]
    del text[min(at for e, at in found if e == end) :]
    return True
