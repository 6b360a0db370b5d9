"""How symbols become vectors besides by a learned table: frozen bits, hashed n-grams, Gaussian tables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bytelm.lm import LAW, NUM_SYMBOLS

SIZES = range(3, 9)  # bytes of the hashed n-grams
HISTORY = max(SIZES)  # symbols that the vectors of a position depend on
_MULTIPLIERS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD6E8FEB9], np.uint32)


def bits_table(width: int) -> np.ndarray:
    """Frozen vectors [261, width]: the 9 bits of a symbol as ±1, again and again (after arXiv 2507.04886,
    where frozen tables of other kinds do as well as learned ones), at the scale of a learned table."""
    bits = (np.arange(NUM_SYMBOLS)[:, None] >> np.arange(9)) & 1
    return np.resize((2.0 * bits - 1.0).T, (width, NUM_SYMBOLS)).T.astype(np.float32)


def hashes(symbols_BT: jax.Array, documents_BT: jax.Array | None, rows: int) -> jax.Array:
    """Rows of a table of `rows` for the n-grams that end at each symbol, int32 [B, T - 7, n-gram sizes].

    Both arrays begin with the 7 symbols before the first that is asked for; -1 stands for none, as does a
    symbol of another document. As in Byte Latent Transformers (Pagnoni et al., arXiv 2412.09871), with
    another hash.
    """
    B, S = symbols_BT.shape
    T = S - HISTORY + 1
    found, hash_BT = [], jnp.zeros((B, T), jnp.uint32)
    for back in range(HISTORY):
        at = HISTORY - 1 - back
        symbol_BT = symbols_BT[:, at : at + T]
        if documents_BT is not None:
            same_BT = documents_BT[:, at : at + T] == documents_BT[:, HISTORY - 1 :]
            symbol_BT = jnp.where(same_BT, symbol_BT, -1)
        hash_BT = (hash_BT ^ (symbol_BT + 2).astype(jnp.uint32)) * jnp.uint32(16777619) + jnp.uint32(
            0x7FEB352D
        )
        if back + 1 in SIZES:
            mixed_BT = hash_BT * jnp.uint32(_MULTIPLIERS[back + 1 - SIZES.start])
            found.append((mixed_BT ^ (mixed_BT >> 15)) % jnp.uint32(rows))
    return jnp.stack(found, axis=-1).astype(jnp.int32)


def with_history(x_BT: jax.Array) -> jax.Array:
    """Rows of symbols, or of documents, with 7 times none before them, for `hashes`."""
    return jnp.pad(x_BT.astype(jnp.int32), ((0, 0), (HISTORY - 1, 0)), constant_values=-1)


def fresh_tables(key: jax.Array | None, rows: int, width: int) -> jax.Array:
    """Gaussian tables [rows, 261, width], one a sequence (Huang et al., Lexinvariant Language Models, arXiv
    2305.16349); without a key the same one for all."""
    if key is None:
        return jnp.broadcast_to(
            jax.random.normal(jax.random.key(0), (1, NUM_SYMBOLS, width)), (rows, NUM_SYMBOLS, width)
        )
    return jax.random.normal(key, (rows, NUM_SYMBOLS, width))


def look_up(tables_BVD: jax.Array, symbols_BT: jax.Array) -> jax.Array:
    """Each row's symbols in its own table."""
    return jnp.take_along_axis(tables_BVD, symbols_BT.astype(jnp.int32)[..., None], axis=1)


def logits_of(tables_BVD: jax.Array, x_BTD: jax.Array) -> jax.Array:
    """Logits of 257 symbols as products with each row's table, which is the only place that names them."""
    scale = x_BTD.shape[-1] ** -0.5
    return scale * jnp.einsum(
        "BTD,BVD->BTV", x_BTD, tables_BVD[:, :LAW].astype(x_BTD.dtype), preferred_element_type=jnp.float32
    )
