"""Several byte models as one: mixtures and products of their next-byte laws.

Members need not share a vocabulary, a tokenizer or an architecture: every `ByteLM` has the same 257 columns.
x are the bytes so far, w the weights, and the law of the next symbol b is

=========  ==========================================================================================
``mean``     sum_k w_k P_k(b | x): fixed weights
``bayes``    sum_k w_k(x) P_k(b | x), w_k(x) proportional to w_k P_k(x): the mixture of text distributions
``switch``   as bayes, and after each byte a share `rate` of the weight is dealt out anew by the prior w
             (fixed share: Herbster and Warmuth, "Tracking the best expert", 1998)
``product``  proportional to prod_k P_k(b | x)^w_k
``proxy``    proportional to base * (expert / anti)^alpha, in that order (Liu et al., arXiv 2401.08565)
=========  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from bytelm.lm import END, LAW, ByteLM, Prompt, as_bytes

Rule = Literal["mean", "bayes", "switch", "product", "proxy"]
_MIXTURES = ("mean", "bayes", "switch")
_FLOOR = np.log(1e-9)  # least probability of an expert and an anti-expert: their ratio must stay finite


@dataclass
class State:
    """The members' states, and the logarithms of the weights that each row has now, [K, B]."""

    members: list[Any]
    weight_KB: np.ndarray
    law_KBV: np.ndarray | None = None  # the members' laws, once they were asked


class Ensemble:
    """A `ByteLM` made of others; see the module for the rules.

    Args:
      members: one or more ByteLMs, ensembles too. Each is asked once a byte, for all rows together.
      rule: how their laws are combined.
      weights: one a member, 0 or more. Mixtures divide them by their sum; for a product they are exponents,
        by default 1/K each; `proxy` takes none.
      rate: of `switch`, in [0, 1]; 0 is `bayes`.
      alpha: of `proxy`, 0 or more; 0 is the base.

    A member that finds a byte impossible does not poison a mixture: under `mean` it is left out after that
    byte and the weights of the others are divided by their sum, under `bayes` and `switch` its posterior is
    zero (under `switch` too: it is dealt no new share). Under a product with a positive weight, the byte is
    impossible. Under `proxy` the base alone decides what is possible: probabilities of the other two count as
    1e-9 at least, and once a byte was impossible under one of them, the law is the base's. Bytes impossible
    under all members score -inf.

    Raises ValueError for no members, weights that do not fit, are negative, not finite or sum to zero.
    """

    def __init__(
        self,
        members: Sequence[ByteLM],
        rule: Rule = "mean",
        weights: Sequence[float] | None = None,
        *,
        rate: float = 0.01,
        alpha: float = 1.0,
    ):
        self.members, self.rule, self.rate, self.alpha = list(members), rule, float(rate), float(alpha)
        K = len(self.members)
        if not K:
            raise ValueError("an ensemble needs at least one member")
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, not {rule!r}")
        if rule == "proxy" and (K != 3 or weights is not None):
            raise ValueError(
                f"rule 'proxy' takes three members, base, expert and anti-expert, and no weights; got {K}"
            )
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must lie in [0, 1], not {rate}")
        if not 0 <= self.alpha < np.inf:
            raise ValueError(f"alpha must be a finite number, 0 or more, not {alpha}")
        self.weights = _checked_weights([1 / K] * K if weights is None else weights, K)
        if rule in _MIXTURES:
            self.weights = self.weights / self.weights.sum()
        limited: list[Any] = [lm for lm in self.members if getattr(lm, "context", None) is not None]
        self.context: int | None = min((lm.context for lm in limited), default=None)
        self.overlap: int = min((getattr(lm, "overlap", 0) for lm in limited), default=0)

    # ---- one byte at a time ----

    def start(self, prompts: Sequence[Prompt]) -> State:
        """A state of a row for each prompt; a prompt goes to every member as it is."""
        with np.errstate(divide="ignore"):
            weight_K = np.log(self.weights)
        return State(
            [lm.start(prompts) for lm in self.members], np.repeat(weight_K[:, None], len(prompts), axis=1)
        )

    def next_logprobs(self, state: State) -> np.ndarray:
        """Log probabilities [B, 257] of the next symbol."""
        return self._combined(self._laws_of(state), state.weight_KB)

    def push(self, state: State, symbols: Sequence[int | None]) -> State:
        """A byte, or None, for each row; the old state is consumed."""
        law_KBV = self._laws_of(state)
        active_B = np.array([s is not None for s in symbols], bool)
        if len(active_B) != law_KBV.shape[1]:
            raise ValueError(f"push: {len(active_B)} symbols for {law_KBV.shape[1]} rows")
        symbol_B = np.array([0 if s is None else s for s in symbols], int)
        weight_KB = state.weight_KB
        if self.rule in _MIXTURES:
            moved_KB = self._moved(weight_KB, law_KBV[:, np.arange(len(symbol_B)), symbol_B])
            weight_KB = moved_KB if active_B.all() else np.where(active_B, moved_KB, weight_KB)
        members = [lm.push(s, symbols) for lm, s in zip(self.members, state.members, strict=True)]
        return State(members, weight_KB)

    def fork(self, state: State) -> State:
        """An independent copy."""
        members = [lm.fork(s) for lm, s in zip(self.members, state.members, strict=True)]
        return State(members, state.weight_KB.copy(), state.law_KBV)

    # ---- whole texts, from the members' own passes ----

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """log p of every byte and of the end of each text, float64 [len(text) + 1] each."""
        if self.rule not in _MIXTURES:
            data = [as_bytes(text) for text in texts]
            laws = self.laws(data, prompts)
            return [
                _dead_after(law_TV[np.arange(len(law_TV)), [*t, END]])
                for law_TV, t in zip(laws, data, strict=True)
            ]
        scores = [lm.score(texts, prompts) for lm in self.members]
        found = []
        for text, *of_text in zip(texts, *scores, strict=True):
            self._check_lengths(of_text, len(as_bytes(text)) + 1)
            score_KT = np.stack(of_text)
            found.append(_dead_after(_log_sum(self._weights_along(score_KT) + score_KT)))
        return found

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """The law at every byte and at the end of each text, float64 [len(text) + 1, 257] each."""
        laws = [lm.laws(texts, prompts) for lm in self.members]
        found = []
        for text, of_text in zip(texts, zip(*laws, strict=True), strict=True):
            law_KTV, symbols = np.stack(of_text), [*as_bytes(text), END]
            self._check_columns(law_KTV)
            weight_KT = self._weights_along(law_KTV[:, np.arange(len(symbols)), symbols])
            law_TV = self._combined(law_KTV, weight_KT)
            dead_T = np.isneginf(_dead_after(law_TV[np.arange(len(symbols)), symbols]))
            law_TV[1:][dead_T[:-1]] = -np.inf
            found.append(law_TV)
        return found

    # ---- the rules ----

    def _combined(self, law_KRV: np.ndarray, weight_KR: np.ndarray) -> np.ndarray:
        """The ensemble's laws [R, 257] from those of its members and the log weights of a mixture."""
        if self.rule in _MIXTURES:
            return _log_sum(weight_KR[..., None] + law_KRV)
        if self.rule == "product":
            with np.errstate(invalid="ignore"):
                terms_KRV = np.where(
                    self.weights[:, None, None] > 0, self.weights[:, None, None] * law_KRV, 0.0
                )
            sum_RV = terms_KRV.sum(axis=0)
        else:
            base_RV, expert_RV, anti_RV = law_KRV
            ratio_RV = np.maximum(expert_RV, _FLOOR) - np.maximum(anti_RV, _FLOOR)
            ended_R = np.isneginf(expert_RV.max(axis=-1)) | np.isneginf(anti_RV.max(axis=-1))
            sum_RV = base_RV + self.alpha * np.where(ended_R[:, None], 0.0, ratio_RV)
        total_R1 = _log_sum(np.moveaxis(sum_RV, -1, 0))[:, None]
        return np.where(
            np.isneginf(total_R1), -np.inf, sum_RV - np.where(np.isneginf(total_R1), 0.0, total_R1)
        )

    def _moved(self, weight_KR: np.ndarray, gained_KR: np.ndarray) -> np.ndarray:
        """Log weights after a symbol to which the members gave log probabilities `gained_KR`."""
        if self.rule == "mean":  # only a member that is at its end leaves
            ended_KR = np.isneginf(gained_KR)
            return _normalised(np.where(ended_KR, -np.inf, weight_KR)) if ended_KR.any() else weight_KR
        posterior_KR = _normalised(weight_KR + gained_KR)
        if self.rule == "bayes" or self.rate == 0:
            return posterior_KR
        with np.errstate(divide="ignore"):
            prior_K1, keep, share = np.log(self.weights)[:, None], np.log1p(-self.rate), np.log(self.rate)
        dealt_KR = np.logaddexp(posterior_KR + keep, prior_K1 + share)
        # What was impossible once stays so: its share is for the others.
        return _normalised(np.where(np.isneginf(posterior_KR), -np.inf, dealt_KR))

    def _weights_along(self, score_KT: np.ndarray) -> np.ndarray:
        """The log weights [K, T] before each symbol of a text, from the members' scores of it."""
        with np.errstate(divide="ignore"):
            weight_K1 = np.log(self.weights)[:, None]
        if self.rule == "switch" and self.rate > 0:
            return _switched(self.weights, self.rate, score_KT)
        if self.rule == "mean":
            gained_KT = np.where(np.isneginf(score_KT), -np.inf, 0.0)
        else:
            gained_KT = score_KT
        before_KT = np.concatenate([np.zeros_like(weight_K1), np.cumsum(gained_KT[:, :-1], axis=1)], axis=1)
        return _normalised(weight_K1 + before_KT)

    def _laws_of(self, state: State) -> np.ndarray:
        if state.law_KBV is None:
            state.law_KBV = np.stack(
                [
                    np.asarray(lm.next_logprobs(s), np.float64)
                    for lm, s in zip(self.members, state.members, strict=True)
                ]
            )
            self._check_columns(state.law_KBV)
        return state.law_KBV

    def _check_lengths(self, of_text: Sequence[np.ndarray], length: int) -> None:
        for k, score_T in enumerate(of_text):
            if np.shape(score_T) != (length,):
                raise ValueError(
                    f"member {k} gives a text of {length - 1} bytes scores of shape {np.shape(score_T)}; "
                    "members must score every byte and the end of text"
                )

    def _check_columns(self, law: np.ndarray) -> None:
        if law.shape[-1] != LAW:
            raise ValueError(
                f"members must have laws of {LAW} columns, 256 bytes and end of text, not {law.shape[-1]}"
            )


def _checked_weights(weights: Sequence[float], K: int) -> np.ndarray:
    weight_K = np.asarray(weights, np.float64)
    if weight_K.shape != (K,):
        raise ValueError(f"weights: {weight_K.size} for {K} members; give one a member")
    if not (np.isfinite(weight_K).all() and (weight_K >= 0).all()):
        raise ValueError(f"weights must be finite and 0 or more, not {weight_K.tolist()}")
    if weight_K.sum() == 0:
        raise ValueError("weights sum to zero: no member would count")
    return weight_K


def _switched(prior_K: np.ndarray, rate: float, score_KT: np.ndarray) -> np.ndarray:
    """Log weights [K, T] of `switch` before each symbol: `_moved` along a text, many times as fast.

    Not in logarithms: dealing out keeps the weight of every member that goes on at rate * prior or more.
    """
    K, T = score_KT.shape
    on_KT = ~np.logical_or.accumulate(np.isneginf(score_KT), axis=1) & (prior_K > 0)[:, None]
    with np.errstate(invalid="ignore"):
        top_T = np.where(on_KT, score_KT, -np.inf).max(axis=0)
        likely_KT = np.where(on_KT, np.exp(score_KT - top_T), 0.0)
    rows, members = np.zeros((T, K)), range(K)
    weight, dealt = prior_K.tolist(), (rate * prior_K).tolist()
    for t, (likely, on) in enumerate(zip(likely_KT.T.tolist(), on_KT.T.tolist(), strict=True)):
        rows[t] = weight
        gained = [weight[k] * likely[k] for k in members]
        total = sum(gained)
        if total == 0:
            break  # impossible under all
        moved = [on[k] * ((1 - rate) * gained[k] / total + dealt[k]) for k in members]
        total = sum(moved)
        weight = [x / total for x in moved]
    with np.errstate(divide="ignore"):
        return np.log(rows.T)


def _log_sum(x_K: np.ndarray) -> np.ndarray:
    """log sum exp over the first axis; -inf where all are."""
    top = x_K.max(axis=0)
    dead = np.isneginf(top)
    if not dead.any():
        return np.log(np.exp(x_K - top).sum(axis=0)) + top
    safe = np.where(dead, 0.0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x_K - safe).sum(axis=0)) + safe


def _normalised(weight_KR: np.ndarray) -> np.ndarray:
    total_R = _log_sum(weight_KR)
    dead_R = np.isneginf(total_R)
    if not dead_R.any():
        return weight_KR - total_R
    return np.where(dead_R, -np.inf, weight_KR - np.where(dead_R, 0.0, total_R))


def _dead_after(score_T: np.ndarray) -> np.ndarray:
    """Scores that are -inf from the first impossible symbol on."""
    return np.where(np.logical_or.accumulate(np.isneginf(score_T)), -np.inf, score_T)
