"""A trained model as a `ByteLM`: ragged prompts, caches, and texts longer than the model's context.

Longer texts are read in windows: the first takes as many symbols as there is room for (`context`, or fewer
where the model has another limit, as of words), each further one begins with the last half of the window
before it, and the law of a symbol comes from the first window that holds what is before it. Where not even
the next symbol has room after that half, a half of the half is taken, and so on. Generation follows the same
windows, so `score` is the sum of `next_logprobs` along `push` for texts of any length.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bytelm import continuing
from bytelm.lm import END, LAW, Prompt, Sampling, as_bytes, symbols_of
from bytelm.parameters import Params, with_params

_SMALLEST = 32  # symbols that a row is padded to at least
_SYMBOLS_AT_ONCE = 16_384  # of a scoring batch


class State(NamedTuple):
    """Rows being read. The cache belongs to the last state only: `push` consumes the old one."""

    read: tuple[np.ndarray, ...]  # the symbols of each row's window
    room: tuple[int, ...]  # to how many each window can surely grow
    cache: Any
    law_BV: jax.Array  # log p of the next symbol


class TrainedLM:
    """See the module.

    Args:
      model: with ``__call__``, ``prefill``, ``decode``, ``advance``, ``fits`` and ``room`` (as in
        `bytelm.models.byte_transformer`), its parameters abstract.
      params: its parameters.
      context: symbols of a row in training; END before a document's first byte is one of them.
    """

    def __init__(self, model: Any, params: Params, context: int):
        self.context, self.overlap = context, context // 2
        self._params, self._model = params, model

        def law(params, symbols_BT):
            return jax.nn.log_softmax(with_params(model, params)(symbols_BT))

        def score(params, symbols_BT, targets_BT):
            return jnp.take_along_axis(law(params, symbols_BT), targets_BT[..., None], axis=-1)[..., 0]

        def prefill(params, symbols_BT, length_B):
            logits_BV, cache = with_params(model, params).prefill(symbols_BT, length_B, context)
            return jax.nn.log_softmax(logits_BV), cache

        def decode(params, cache, law_BV, symbol_B, active_B):
            logits_BV, cache = with_params(model, params).decode(cache, symbol_B, active_B)
            return jnp.where(active_B[:, None], jax.nn.log_softmax(logits_BV), law_BV), cache

        def choose(chosen_B, new, old):
            """Rows of `new` where chosen; every array of a cache has its rows where `rows_of` says."""
            (law_new, cache_new), (law_old, cache_old) = new, old

            def pick(axis: int, a: jax.Array, b: jax.Array) -> jax.Array:
                others = [i for i in range(a.ndim) if i != axis]
                return jnp.where(jnp.expand_dims(chosen_B, others), a, b)

            cache = jax.tree.map(pick, model.rows_of_cache, cache_new, cache_old)
            return jnp.where(chosen_B[:, None], law_new, law_old), cache

        def grow(params, *args, **static):
            whole = with_params(model, params)
            fits = lambda cache, symbol_B: whole.fits(cache, symbol_B, context)  # noqa: E731
            return continuing.make_grow(whole.advance, fits)(*args, **static)

        self._law, self._score = jax.jit(law), jax.jit(score)
        self._prefill = jax.jit(prefill)
        self._decode = jax.jit(decode, donate_argnums=(1, 2))
        self._choose = jax.jit(choose, donate_argnums=(2,))
        self._grow = jax.jit(grow, donate_argnums=(1, 2), static_argnames=("greedy", "filtered"))

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
            windows.append(symbols[self._windows(symbols)[-1][0] :])
        law_BV, cache = self._read(windows)
        return State(tuple(windows), tuple(map(self._room, windows)), cache, law_BV)

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
        read, room, full = list(state.read), list(state.room), np.zeros(len(symbols), bool)
        for row, s in enumerate(symbols):
            if s is not None:
                read[row] = np.append(read[row], np.uint16(s))
                full[row] = self._shift(read, room, row)
        active_B = np.array([s is not None for s in symbols]) & ~full
        symbol_B = np.array([0 if s is None else s for s in symbols], np.int32)
        law_BV, cache = state.law_BV, state.cache
        if active_B.any():
            law_BV, cache = self._decode(self._params, cache, law_BV, symbol_B, active_B)
        if full.any():  # these rows go on in their next window
            law_BV, cache = self._choose(full, self._read(read), (law_BV, cache))
        return State(tuple(read), tuple(room), cache, law_BV)

    def fork(self, state: State) -> State:
        """A copy, so that both may be pushed."""
        return state._replace(cache=jax.tree.map(jnp.copy, state.cache), law_BV=jnp.copy(state.law_BV))

    def continue_(
        self, state: State, *, max_bytes: int, sampling: Sampling, stop: tuple[bytes, ...], seed: int
    ) -> list[bytes] | None:
        """See `bytelm.lm.FastGenerate`. Does all samplings of bytes but `utf8`."""
        if sampling.utf8 or sampling.mode != "byte":
            return None
        read, room, B = list(state.read), list(state.room), len(state.read)
        texts, done_B = [bytearray() for _ in read], np.full(B, max_bytes == 0)
        cache, law_BV = state.cache, state.law_BV
        flags = {
            "greedy": sampling.temperature == 0,
            "filtered": any(x is not None for x in (sampling.top_k, sampling.top_p, sampling.min_p)),
        }
        while not done_B.all():
            size_B = np.array([len(text) for text in texts], np.int32)
            grown = self._grow(
                self._params, cache, law_BV, ~done_B, max_bytes - size_B, np.uint32(seed % 2**32), size_B,
                continuing.Settings.of(sampling), **flags,
            )  # fmt: skip
            cache, law_BV = grown.cache, grown.law_BV
            out_BN, new_B, ended_B, full_B, bad_B = map(np.asarray, grown[2:])
            if bad_B.any():
                row = int(bad_B.argmax())
                where = f"row {row}, byte {size_B[row] + new_B[row]} of its completion"
                raise RuntimeError(f"generate: {where}: the law has no finite maximum")
            done_B = done_B | ended_B
            for row, text in enumerate(texts):
                text += bytes(out_BN[row, : new_B[row]].tolist())
                done_B[row] |= continuing.cut_at_stop(text, int(size_B[row]), stop)
                read[row] = np.append(read[row], out_BN[row, : new_B[row]].astype(np.uint16))
            full_B = full_B & ~done_B
            for row in np.flatnonzero(full_B).tolist():
                self._shift(read, room, row)
            if full_B.any():  # these rows go on in their next window
                windows = [w if go else w[:1] for w, go in zip(read, full_B, strict=True)]
                law_BV, cache = self._choose(full_B, self._read(windows), (law_BV, cache))
        return [bytes(text) for text in texts]

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
            n, new = len(documents[-1]) - 1, 0  # inputs; before `new` they were the window's before
            for at, stop in self._windows(documents[-1][:n]):
                if stop > len(before) - 1:
                    rows.append((i, at, stop, max(new, len(before) - 1), len(before) - 1))
                new = stop
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

    def _windows(self, symbols: np.ndarray) -> list[tuple[int, int]]:
        """Where the windows over symbols begin and end."""
        found: list[tuple[int, int]] = []
        start = 0
        while True:
            room = self._room(symbols[start : start + self.context + 1])
            if start + room >= len(symbols):
                return [*found, (start, len(symbols))]
            found.append((start, start + room))
            start += room - self._kept(symbols[start : start + room + 1])

    def _room(self, symbols: np.ndarray) -> int:
        return self._model.room(symbols, self.context)

    def _kept(self, symbols: np.ndarray) -> int:
        """How many symbols of a window the next one begins with, given the window and the symbol after it."""
        kept = (len(symbols) - 1) // 2
        while kept and self._room(symbols[-kept - 1 :]) <= kept:
            kept //= 2
        return kept

    def _shift(self, read: list[np.ndarray], room: list[int], row: int) -> bool:
        """If a row's window is too long by its last symbol, makes the next window of it, and says so."""
        if len(read[row]) <= room[row]:
            return False
        room[row] = self._room(read[row])
        if len(read[row]) <= room[row]:
            return False
        read[row] = read[row][-self._kept(read[row]) - 1 :]
        room[row] = self._room(read[row])
        return True

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
