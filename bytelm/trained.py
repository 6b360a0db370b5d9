"""A trained model as a `ByteLM`: ragged prompts, caches, and texts longer than the model's context.

Longer texts are read in windows of `context` symbols that overlap by `overlap`: the first window is the
first `context` symbols, each further one starts ``context - overlap`` later, and the law of a symbol comes
from the first window that holds what is before it. Generation follows the same windows, so `score` is the
sum of `next_logprobs` along `push` for texts of any length.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import layers
from bytelm.layers import Params
from bytelm.lm import END, LAW, Prompt, as_bytes, symbols_of

_SMALLEST = 32  # symbols that a row is padded to at least
_SYMBOLS_AT_ONCE = 16_384  # of a scoring batch


class State(NamedTuple):
    """Rows being read. The cache belongs to the last state only: `push` consumes the old one."""

    read: tuple[np.ndarray, ...]  # the symbols of each row's window
    cache: Any
    law_BV: jax.Array  # log p of the next symbol


class TrainedLM:
    """See the module.

    Args:
      model: with ``__call__``, ``prefill`` and ``decode`` (as `bytelm.models.byte_transformer`), its
        parameters abstract.
      params: its parameters.
      context: symbols of a row in training; END before a document's first byte is one of them.
    """

    def __init__(self, model: Any, params: Params, context: int):
        self.context, self.overlap = context, context // 2
        self._params = params

        def law(params, symbols_BT):
            return jax.nn.log_softmax(layers.with_params(model, params)(symbols_BT))

        def score(params, symbols_BT, targets_BT):
            return jnp.take_along_axis(law(params, symbols_BT), targets_BT[..., None], axis=-1)[..., 0]

        def prefill(params, symbols_BT, length_B):
            logits_BV, cache = layers.with_params(model, params).prefill(symbols_BT, length_B, context)
            return jax.nn.log_softmax(logits_BV), cache

        def decode(params, cache, law_BV, symbol_B, active_B):
            logits_BV, cache = layers.with_params(model, params).decode(cache, symbol_B, active_B)
            return jnp.where(active_B[:, None], jax.nn.log_softmax(logits_BV), law_BV), cache

        def choose(chosen_B, new, old):
            """Rows of `new` where chosen; every array of a cache has its rows where `rows_of` says."""
            (law_new, cache_new), (law_old, cache_old) = new, old

            def pick(axis: int, a: jax.Array, b: jax.Array) -> jax.Array:
                others = [i for i in range(a.ndim) if i != axis]
                return jnp.where(jnp.expand_dims(chosen_B, others), a, b)

            cache = jax.tree.map(pick, model.rows_of_cache, cache_new, cache_old)
            return jnp.where(chosen_B[:, None], law_new, law_old), cache

        self._law, self._score = jax.jit(law), jax.jit(score)
        self._prefill = jax.jit(prefill)
        self._decode = jax.jit(decode, donate_argnums=(1, 2))
        self._choose = jax.jit(choose, donate_argnums=(2,))

    def with_params(self, params: Params) -> TrainedLM:
        """The same model with other parameters; it shares what is compiled."""
        other = copy.copy(self)
        other._params = params
        return other

    # ---- one symbol at a time ----

    def start(self, prompts: Sequence[Prompt]) -> State:
        """Reads a ragged batch of prompts, each from the start of a document."""
        windows = []
        for prompt in prompts:
            symbols = _document(prompt)
            windows.append(symbols[self._windows(len(symbols))[-1] :])
        law_BV, cache = self._read(windows)
        return State(tuple(windows), cache, law_BV)

    def next_logprobs(self, state: State) -> np.ndarray:
        """log p of each next symbol, float64 [B, 257]."""
        return np.asarray(state.law_BV, np.float64)

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """One symbol a row (END too); None leaves the row as it is. `state` is consumed."""
        if len(symbols) != len(state.read):
            raise ValueError(f"push: {len(symbols)} symbols for {len(state.read)} rows")
        for row, s in enumerate(symbols):
            if s is not None and not 0 <= s < LAW:
                raise ValueError(f"push: row {row}: {s} is no byte (0..255) nor end of text ({END})")
        read, full = list(state.read), np.zeros(len(symbols), bool)
        for row, s in enumerate(symbols):
            if s is not None:
                full[row] = len(read[row]) == self.context
                kept = read[row][self.context - self.overlap :] if full[row] else read[row]
                read[row] = np.append(kept, np.uint16(s))
        active_B = np.array([s is not None for s in symbols]) & ~full
        symbol_B = np.array([0 if s is None else s for s in symbols], np.int32)
        law_BV, cache = state.law_BV, state.cache
        if active_B.any():
            law_BV, cache = self._decode(self._params, cache, law_BV, symbol_B, active_B)
        if full.any():  # these rows go on in their next window
            law_BV, cache = self._choose(full, self._read(read), (law_BV, cache))
        return State(tuple(read), cache, law_BV)

    def fork(self, state: State) -> State:
        """A copy, so that both may be pushed."""
        return State(state.read, jax.tree.map(jnp.copy, state.cache), jnp.copy(state.law_BV))

    # ---- whole texts ----

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """log p of every byte and of the end of each text, float64 [len(text) + 1] each."""
        return self._over_windows(texts, prompts, self._score, ())

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """The law at every byte and at the end of each text, float64 [len(text) + 1, 257] each."""
        return self._over_windows(
            texts, prompts, lambda params, symbols, _: self._law(params, symbols), (LAW,)
        )

    def _over_windows(self, texts, prompts, compute, shape):
        prompts = [b""] * len(texts) if prompts is None else prompts
        if len(prompts) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(prompts)} prompts")
        documents, outs, rows = [], [], []
        for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            before, data = _document(prompt), np.frombuffer(as_bytes(text), np.uint8)
            documents.append(np.concatenate([before, data, [END]]).astype(np.uint16))
            outs.append(np.zeros((len(data) + 1, *shape)))
            n = len(documents[-1]) - 1  # inputs
            for at in self._windows(n):
                new = at + self.overlap if at else 0  # inputs before this were the window's before
                if min(at + self.context, n) > len(before) - 1:
                    rows.append(
                        (i, at, min(at + self.context, n), max(new, len(before) - 1), len(before) - 1)
                    )
        rows.sort(key=lambda row: row[2] - row[1])
        while rows:
            length = self._padded(rows[-1][2] - rows[-1][1])
            count = max(1, _SYMBOLS_AT_ONCE // length)
            batch, rows = rows[-count:], rows[:-count]
            inputs_BT, targets_BT = np.zeros((2, len(batch), length), np.int32)
            for b, (i, at, stop, _, _) in enumerate(batch):
                inputs_BT[b, : stop - at] = documents[i][at:stop]
                targets_BT[b, : stop - at] = documents[i][at + 1 : stop + 1]
            found = np.asarray(compute(self._params, inputs_BT, np.minimum(targets_BT, END)))
            for b, (i, at, stop, new, first) in enumerate(batch):
                outs[i][new - first : stop - first] = found[b, new - at : stop - at]
        return outs

    # ---- windows ----

    def _windows(self, n: int) -> range:
        """Where the windows over `n` symbols start."""
        stride = self.context - self.overlap
        return range(0, max(0, -(-(n - self.context) // stride)) * stride + 1, stride)

    def _padded(self, n: int) -> int:
        """A power of two, at most the context: so that few shapes are compiled."""
        return min(self.context, max(_SMALLEST, 1 << (n - 1).bit_length()))

    def _read(self, windows: Sequence[np.ndarray]) -> tuple[jax.Array, Any]:
        length_B = np.array([len(w) for w in windows], np.int32)
        symbols_BT = np.zeros((len(windows), self._padded(int(max(length_B, default=1)))), np.uint16)
        for row, window in enumerate(windows):
            symbols_BT[row, : len(window)] = window
        return self._prefill(self._params, symbols_BT, length_B)


def _document(prompt: Prompt) -> np.ndarray:
    return np.concatenate([[END], symbols_of(prompt)]).astype(np.uint16)
