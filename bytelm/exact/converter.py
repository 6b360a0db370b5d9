"""A tokenized language model as a model over bytes, exactly.

Phan et al., "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model
Ensembles" (arXiv 2410.09303), with the covers restricted to canonical sequences and, by default, the
token law renormalised over them (Vieira et al., arXiv 2412.03719 and 2506.07956).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bytelm.exact.all_covers.all_lm import AllLM, all_lm
from bytelm.exact.all_covers.bounds import Bounds
from bytelm.exact.batches import check_open, consumed, scores_along, texts_and_prompts
from bytelm.exact.canonical.canonical import Canonical, canonical_of
from bytelm.exact.generating.contexts import Contexts
from bytelm.exact.generating.masses import Masses
from bytelm.exact.rows import Row, row_of
from bytelm.exact.scoring import terms
from bytelm.exact.scoring.columns import Columns
from bytelm.lm import LAW, Prompt, Sampling, TokenLM, TreeLM


@dataclass
class State:
    """A ragged batch: see `ByteLM`. `model` has evaluated the nodes of the rows, and keeps what it needs."""

    rows: list[Masses]
    model: Any
    consumed: bool = False


def convert(
    token_lm: TokenLM,
    tokenizer: Any,
    bos: int | None = None,
    eos: int | Iterable[int] | None = None,
    support: Literal["canonical", "all"] = "canonical",
    normalise: Literal["local", "joint"] | None = None,
    K: int | None = 64,
    eps: float = 1e-6,
) -> ConvertedLM | AllLM:
    """The byte model that a tokenized model is.

    tokenizer: a `tokenizers.Tokenizer`, the path of a `tokenizer.json`, a `tiktoken.Encoding`, or a
    `Canonical`. bos: a token put first. eos: the tokens that end a text.

    `support="canonical"`: only prefixes of encodings count. With `normalise="local"` the token law is
    renormalised at each step over the tokens that keep the sequence one, and the byte law is proper; with
    "joint" it is taken as it is and P(x) leaks the mass of other sequences: next-byte laws are divided
    by their sum, and `leak` reports what was missing. `support="all"`: every cover counts, the token law is
    as it is, and a frontier of at most `K` new segmentations a byte is kept, of a share of at least `eps`
    (None and 0: all of them, exactly); see `AllLM`. Raises `Unsupported` for a tokenizer that cannot be
    converted, ValueError for tokens that the model does not have.
    """
    if support not in ("canonical", "all"):
        raise ValueError(f"support must be 'canonical' or 'all', not {support!r}")
    if normalise not in (None, "local", "joint"):
        raise ValueError(f"normalise must be 'local' or 'joint', not {normalise!r}")
    if support == "all" and normalise is not None:
        raise ValueError(f"normalise={normalise!r}: with support 'all' the token law is as it is")
    ends = [] if eos is None else sorted({eos} if isinstance(eos, int) else set(eos))
    for token in [*ends, *([] if bos is None else [bos])]:
        if not 0 <= token < token_lm.vocab_size:
            raise ValueError(f"bos or eos {token}: the model's tokens are 0..{token_lm.vocab_size - 1}")
    if support == "all":
        return all_lm(token_lm, tokenizer, bos, ends, K, eps)
    return ConvertedLM(token_lm, canonical_of(tokenizer), bos, ends, normalise == "joint")


class ConvertedLM:
    """A `ByteLM` over a `TokenLM`, made by `convert`.

    A `TreeLM` reads whole texts in passes over their trees, and grows the trees of a batch over its cache
    byte by byte; of another `TokenLM` a law is asked for every context, all new ones in one call. A context
    longer than the model's `context`, where it has one, is refused with ValueError; nothing is cut.
    """

    def __init__(
        self, token_lm: TokenLM, canonical: Canonical, bos: int | None, ends: list[int], joint: bool
    ):
        self.token_lm, self.canonical, self.bos, self.ends, self.joint = token_lm, canonical, bos, ends, joint
        self.columns = Columns(canonical, token_lm.vocab_size, ends)

    # ---- the protocol --------------------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt]) -> State:
        """A state of a row for each prompt. ValueError for special tokens that the tokenizer lacks."""
        rows = [Masses(self._row(prompt, b"")) for prompt in prompts]
        model: Any
        if self.trees is not None:
            from bytelm.exact.generating.branches import Branches

            model = Branches(self.trees)
        else:
            model = Contexts(self.token_lm, self.columns, self.joint)
        model.open(rows)
        return State(rows, model)

    def next_logprobs(self, state: State) -> np.ndarray:
        """Log probabilities `[B, 257]` of the next byte or the end."""
        check_open(state)
        return np.stack([_law(row)[0] for row in state.rows]) if state.rows else np.zeros((0, LAW))

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """A byte, or None, for each row; the old state is consumed."""
        consumed(state, symbols)
        moved = []
        for masses, symbol in zip(state.rows, symbols, strict=True):
            row = masses.row
            if symbol is None or row.dead:
                continue
            if _law(masses)[0][symbol] == -np.inf:
                row.dead = True
                continue
            known = len(row.tree.token)
            row.tree.extend([symbol])
            row.offset += 1
            masses.settle(row.offset)
            masses.grow(range(known, len(row.tree.token)))
            moved.append(masses)
        state.model.grow(moved)
        return State(state.rows, state.model)

    def fork(self, state: State) -> State:
        """An independent copy."""
        check_open(state)
        rows = [masses.copy(masses.row.copy()) for masses in state.rows]
        return State(rows, state.model.copy(rows))

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """For each text float64 `[len(text) + 1]`: log p(byte | prompt, bytes before); last, the end."""
        data, rows = self._texts(texts, prompts)
        if self.trees is None:
            laws = self._laws_by_contexts(rows)
            return [scores_along(law, text) for law, text in zip(laws, data, strict=True)]
        live = [row for row in rows if not row.dead]
        asked = [terms.of_scores(row, self.columns, self.joint) for row in live]
        sums = iter(self.trees.sums(live, asked))
        return [
            np.full(len(text) + 1, -np.inf) if row.dead else terms.scores_of(next(sums), row, self.joint)
            for row, text in zip(rows, data, strict=True)
        ]

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """For each text `[len(text) + 1, 257]`: the whole law before each byte, and at the end."""
        data, rows = self._texts(texts, prompts)
        if self.trees is None:
            return self._laws_by_contexts(rows)
        live = [row for row in rows if not row.dead]
        asked = [terms.of_laws(row, self.columns) for row in live]
        sums = iter(self.trees.sums(live, asked))
        return [
            np.full((len(text) + 1, LAW), -np.inf) if row.dead else terms.laws_of(next(sums))
            for row, text in zip(rows, data, strict=True)
        ]

    def differentiable(
        self,
        texts: Sequence[bytes | str],
        prompts: Sequence[Prompt] | None = None,
        of: Literal["score", "laws"] = "score",
    ) -> Callable[[Any], Any]:
        """A pure function of the model's parameters, for `jax.grad` and `jax.jit`, on one batch of texts.

        It gives scores `[B, T + 1]`, or laws `[B, T + 1, 257]`, of texts of at most T bytes, padded with 0.
        Raises TypeError for a model that is no `TreeLM`, ValueError for prompts that are impossible.
        """
        if self.trees is None:
            raise TypeError(f"{type(self.token_lm).__name__} is no TreeLM: it cannot be differentiated")
        if of not in ("score", "laws"):
            raise ValueError(f"of must be 'score' or 'laws', not {of!r}")
        from bytelm.exact.scoring.gradient import differentiable

        _, rows = self._texts(texts, prompts)
        for i, row in enumerate(rows):
            if row.dead:
                raise ValueError(f"prompt {i} is impossible under this model")
        laws = of == "laws"
        asked = [
            terms.of_laws(r, self.columns) if laws else terms.of_scores(r, self.columns, self.joint)
            for r in rows
        ]
        return differentiable(self.trees, rows, asked, self.joint, laws)

    def leak(self, state: State) -> np.ndarray:
        """For each row the share of P(text so far) that no next byte and no end inherits, `[B]`.

        Under "local" it is 0 up to rounding; NaN never: a row that is impossible leaks 0.
        """
        check_open(state)
        return np.array([_leak(masses) for masses in state.rows])

    def bounds(
        self,
        texts: Sequence[bytes | str],
        prompts: Sequence[Prompt] | None = None,
        K: int | None = 64,
        eps: float = 1e-6,
        samples: int = 0,
        seed: int = 0,
    ) -> list[Bounds]:
        """What all tokenisations of the texts have, certified and estimated; see `AllLM`."""
        vocabulary, dummy = self.canonical.vocabulary, self.canonical.source.dummy
        every = AllLM(self.token_lm, vocabulary, dummy, self.bos, self.ends, K, eps)
        return every.bounds(texts, prompts, samples, seed)

    def continue_(
        self, state: State, *, max_bytes: int, sampling: Sampling, stop: tuple[bytes, ...], seed: int
    ) -> list[bytes] | None:
        """See `FastGenerate`: boundary mode, and byte mode's law where nothing changes it.

        Under "joint" the law of bytes is not that of masked tokens: None.
        """
        if self.joint or (sampling.mode == "byte" and sampling != Sampling()):
            return None
        check_open(state)
        state.consumed = True
        from bytelm.exact.generating.boundary import continued

        temperature = 1.0 if sampling.token_temperature is None else sampling.token_temperature
        return continued(
            self.token_lm,
            self.columns,
            self.trees,
            state.rows,
            max_bytes=max_bytes,
            temperature=temperature,
            stop=stop,
            seed=seed,
        )

    # ---- how -----------------------------------------------------------------------------------

    @functools.cached_property
    def trees(self) -> Any:
        """The passes over a `TreeLM`; None for another model."""
        if not isinstance(self.token_lm, TreeLM):
            return None
        from bytelm.exact.scoring.passes import Passes

        return Passes(self.token_lm, self.columns, self.joint)

    def _row(self, prompt: Prompt, text: bytes) -> Row:
        return row_of(self.canonical, self.bos, prompt, text)

    def _texts(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None
    ) -> tuple[list[bytes], list[Row]]:
        data, prompts = texts_and_prompts(texts, prompts)
        return data, [self._row(prompt, text) for prompt, text in zip(prompts, data, strict=True)]

    def _laws_by_contexts(self, rows: Sequence[Row]) -> list[np.ndarray]:
        all_masses = [Masses(row) for row in rows]
        Contexts(self.token_lm, self.columns, self.joint).grow(all_masses)
        return [
            np.stack([_law(m, offset)[0] for offset in range(m.row.offset, len(m.row.tree.text) + 1)])
            for m in all_masses
        ]


def _law(masses: Masses, offset: int | None = None) -> tuple[np.ndarray, float]:
    """The normalised law at an offset, and the log of what it was divided by; -inf if impossible."""
    if masses.row.dead:
        return np.full(LAW, -np.inf), -np.inf
    law, total = masses.law(masses.row.offset if offset is None else offset)
    return (law - total if total > -np.inf else law), total


def _leak(masses: Masses) -> float:
    _, total = _law(masses)
    if total == -np.inf:
        return 0.0
    return float(-np.expm1(total - masses.text_weight(masses.row.offset)))
