"""An unbiased estimate of the probability of a text under all tokenisations, by importance sampling.

A segmentation is drawn token by token, each in the proportions of p among the tokens that agree with the
text; what those have in all is multiplied up. The mean over samples is unbiased for the sum over all
segmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from bytelm.exact.tokenizer.vocabulary import Vocabulary

Ask: TypeAlias = Callable[[Sequence[tuple[int, ...]]], dict[tuple[int, ...], np.ndarray]]
_DONE = -1  # in place of a token


def estimate(
    ask: Ask,
    vocabulary: Vocabulary,
    trunk: tuple[int, ...],
    text: bytes,
    lead: int,
    ends: np.ndarray | None,
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """The log of the mean weight, and its standard error (delta method).

    ask: contexts -> log probabilities. ends: end tokens, for the text and then an end; None, for texts that
    begin with it. lead: 1 where detokenising drops a leading space.
    """
    draw = np.random.default_rng(seed)
    target = b" " * lead + text
    paths: list[tuple[tuple[int, ...], int, float]] = [(trunk, 0, 0.0)] * samples
    weights: list[float] = []
    while paths:
        asked = ask([tokens for tokens, _, _ in paths])
        options = {
            tokens: _options(vocabulary, asked[tokens], at, target, lead, ends) for tokens, at, _ in paths
        }
        moved = []
        for tokens, _, weight in paths:
            ids, stops, shares = options[tokens]
            total = shares.sum()
            if total <= 0:
                weights.append(-np.inf)
                continue
            weight += float(np.log(total))
            pick = int(draw.choice(len(ids), p=shares / total))
            if ids[pick] == _DONE:
                weights.append(weight)
            else:
                moved.append(((*tokens, ids[pick]), stops[pick], weight))
        paths = moved
    top = max(weights)
    if top == -np.inf:
        return -np.inf, np.nan
    means = np.exp(np.array(weights) - top)
    error = means.std(ddof=1) / means.mean() / np.sqrt(samples) if samples > 1 else np.nan
    return float(top + np.log(means.mean())), float(error)


def _options(
    vocabulary: Vocabulary, logprobs: np.ndarray, at: int, target: bytes, lead: int, ends: np.ndarray | None
) -> tuple[list[int], list[int], np.ndarray]:
    """Tokens that agree with the text, where they end, and their probabilities; `_DONE` for what ends it."""
    complete = at == len(target) or (at == 0 and len(target) == lead)
    if complete and ends is None:
        return [_DONE], [at], np.ones(1)
    ids, stops, shares = [], [], []
    if complete:
        assert ends is not None
        ids, stops, shares = [_DONE], [at], [float(np.exp(logprobs[ends]).sum())]
    known = set() if ends is None else set(ends.tolist())
    # Without the dummy space a text may start with anything but a space.
    starts = [at, *([1] if at == 0 and lead and target[1:2] != b" " else [])]
    for start in starts:
        for stop in range(start + 1, min(len(target), start + vocabulary.longest) + 1):
            for token in vocabulary.prefixes.get(target[start:stop], ()):
                if token < len(logprobs) and token not in known:
                    ids.append(token)
                    stops.append(stop)
                    shares.append(float(np.exp(logprobs[token])))
        rest = target[start:]
        if ends is None and rest:
            _, high, _, firsts = vocabulary.below(rest)
            if len(firsts):
                over = vocabulary.order[int(firsts[0]) : high]
                ids.append(_DONE)
                stops.append(start)
                shares.append(float(np.exp(logprobs[over[over < len(logprobs)]]).sum()))
    return ids, stops, np.array(shares)
