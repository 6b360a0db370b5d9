"""A tokenized model with a prompt of plain tokens, and with token healing: what exact conversion is held to.

*token*: the last text of a prompt is encoded like all others, and the model goes on after its last token.
*healing*: that last token is taken back, and the first token said must begin with its bytes; then as before.
Neither masks anything else: the token law is the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bytelm.exact.asking import asked, check_length
from bytelm.exact.converter import ConvertedLM
from bytelm.exact.tree import Tree
from bytelm.generate import adjusted, draw
from bytelm.lm import Prompt, Sampling, Special, Text, TreeLM, segments

Method = Literal["token", "healing"]

_AHEAD = 256  # tokens that a cache has room for at first


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens. open_: where the last text's start; lead: bytes of the next that are no text."""

    tokens: list[int]
    open_: int
    lead: int

    def healed(self, data: Sequence[bytes]) -> tuple[list[int], bytes]:
        """The tokens without the last one of the open text, and its bytes; b"" where it has none."""
        if len(self.tokens) == self.open_:
            return self.tokens, b""
        return self.tokens[:-1], data[self.tokens[-1]]


def encoded(lm: ConvertedLM, prompt: Prompt) -> Encoded:
    """The tokens of a prompt, each text of it on its own. ValueError for a text without an encoding."""
    tokens = [] if lm.bos is None else [lm.bos]
    start, lead = len(tokens), int(lm.canonical.source.dummy)
    for part in segments(prompt):
        if isinstance(part, Special):
            tokens.append(lm.canonical.vocabulary.named(part.name))
            start, lead = len(tokens), int(lm.canonical.source.dummy)
            continue
        assert isinstance(part, Text)
        start = len(tokens)
        new = _encoded(lm, part.data, part.dummy_prefix)
        tokens += new
        lead = int(lm.canonical.source.dummy and part.dummy_prefix and not new)
    return Encoded(tokens, start, lead)


def _encoded(lm: ConvertedLM, data: bytes, dummy: bool) -> list[int]:
    if not data:
        return []
    tree = Tree(lm.canonical, dummy)
    tree.extend(data)
    node = tree.ending()
    if node is None:
        raise ValueError(f"the tokenizer has no encoding of {data!r:.60}")
    return tree.path(node)


# ---- the bits of a text --------------------------------------------------------------------------------


def nats(lm: ConvertedLM, prompt: Prompt, text: bytes, method: Method) -> float:
    """-log p of a text and its end after a prompt, by its canonical tokens; inf where it has none.

    token: of the text's own tokens. healing: of the tokens of the last prompt token's bytes and the text
    together, the first one by the law renormalised over tokens that begin with those bytes; where the first
    does not, the last prompt token itself comes first, and then the text's own tokens.
    """
    before = encoded(lm, prompt)
    try:
        if method == "token":
            context, bytes_, target = before.tokens, b"", _encoded(lm, text, bool(before.lead))
        else:
            context, bytes_ = before.healed(lm.canonical.vocabulary.data)
            target = _healed_target(lm, before, prompt, bytes_, text)
    except ValueError:
        return float("inf")
    logprobs_NV = asked(lm.token_lm, [context + target[:i] for i in range(len(target) + 1)])
    total = 0.0
    if bytes_:
        low, high, _, _ = lm.canonical.vocabulary.below(bytes_)
        total += float(np.logaddexp.reduce(logprobs_NV[0, lm.canonical.vocabulary.order[low:high]]))
    total -= float(sum(logprobs_NV[i, token] for i, token in enumerate(target)))
    return total - float(np.logaddexp.reduce(logprobs_NV[-1, lm.ends]))


def _healed_target(lm: ConvertedLM, before: Encoded, prompt: Prompt, bytes_: bytes, text: bytes) -> list[int]:
    if not bytes_:
        return _encoded(lm, text, bool(before.lead))
    data, last = lm.canonical.vocabulary.data, segments(prompt)[-1]
    assert isinstance(last, Text)
    together = _encoded(lm, last.data + text, last.dummy_prefix)
    kept = before.tokens[before.open_ : -1]
    if together[: len(kept)] == kept and data[together[len(kept)]].startswith(bytes_):
        return together[len(kept) :]
    return [before.tokens[-1], *_encoded(lm, text, False)]


# ---- completions ---------------------------------------------------------------------------------------


@dataclass
class _Row:
    """A completion. begin: what the next token must begin with; lead: bytes of it that are no text."""

    random: np.random.Generator
    context: list[int]
    begin: bytes
    lead: int
    text: bytearray = field(default_factory=bytearray)
    done: bool = False
    tokens: int = 0


def complete(
    lm: ConvertedLM,
    prompts: Sequence[Prompt],
    method: Method,
    *,
    max_bytes: Sequence[int],
    temperature: float = 0.0,
    top_p: float | None = None,
    stop: Sequence[bytes] = (),
    seeds: Sequence[int | Sequence[int]],
) -> list[tuple[bytes, int]]:
    """The completion of each prompt, stop string excluded, and how many tokens it took.

    `temperature` and `top_p` are of the law of a token; 0 takes the likeliest. A row draws from a stream of
    its own, made from its seed. A special token that is no end ends the text too.
    """
    rows = []
    data, vocabulary = lm.canonical.vocabulary.data, lm.canonical.vocabulary
    for prompt, seed in zip(prompts, seeds, strict=True):
        before = encoded(lm, prompt)
        context, begin = (before.tokens, b"") if method == "token" else before.healed(data)
        rows.append(_Row(np.random.default_rng(seed), list(context), begin, before.lead))
    steps = _Steps(lm.token_lm)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    for row, most in zip(rows, max_bytes, strict=True):
        row.done = not most
    while not all(row.done for row in rows):
        active = [i for i, row in enumerate(rows) if not row.done]
        logprobs_BV = steps.after([row.context for row in rows], active)
        for i in active:
            row, law_1V = rows[i], logprobs_BV[i][None].copy()
            if row.begin:
                low, high, _, _ = vocabulary.below(row.begin)
                kept = np.full_like(law_1V, -np.inf)
                allowed = vocabulary.order[low:high]
                kept[0, allowed] = law_1V[0, allowed]
                law_1V = kept
            token = int(draw(adjusted(law_1V, sampling), np.array([row.random.random()]))[0])
            row.tokens += 1
            if token in lm.ends or token >= len(data) or not data[token]:
                row.done = True
                continue
            row.context.append(token)
            new = data[token][len(row.begin) or row.lead :]
            row.begin, row.lead = b"", 0
            _add(row, new, max_bytes[i], stop)
    return [(bytes(row.text), row.tokens) for row in rows]


def _add(row: _Row, new: bytes, most: int, stop: Sequence[bytes]) -> None:
    for byte in new:
        row.text.append(byte)
        if found := [s for s in stop if row.text.endswith(s)]:
            del row.text[-max(map(len, found)) :]
            row.done = True
        if row.done or len(row.text) >= most:
            row.done = True
            return


class _Steps:
    """The law after each of a batch of growing contexts: by a cache where the model has one."""

    def __init__(self, token_lm: Any):
        self._lm, self._cache, self._slots = token_lm, None, 0
        self._trees = isinstance(token_lm, TreeLM)

    def after(self, contexts: Sequence[Sequence[int]], active: Sequence[int]) -> np.ndarray:
        """Log probabilities `[B, V]`; without meaning for rows that are not active."""
        limit = getattr(self._lm, "context", None)
        longest = max(len(contexts[i]) for i in active)
        check_length(longest, limit)
        if not self._trees:
            found_NV = asked(self._lm, [contexts[i] for i in active])
            law_BV = np.zeros((len(contexts), found_NV.shape[1]))
            law_BV[active] = found_NV
            return law_BV
        B = len(contexts)
        if self._cache is None or longest > self._slots:
            self._slots = 1 << (longest + _AHEAD - 1).bit_length()
            if limit is not None:
                self._slots = max(min(self._slots, limit), longest)
            width = min(self._slots, 1 << max(4, (longest - 1).bit_length()))
            tokens_BS, length_B = np.zeros((B, width), np.int32), np.ones(B, np.int32)
            for i in active:
                length_B[i] = len(contexts[i])
                tokens_BS[i, : len(contexts[i])] = contexts[i]
            logits_BV, self._cache = self._lm.open(
                self._lm.params, tokens_BS, length_B, slots=self._slots, nodes=1
            )
        else:
            token_B1, count_B = np.zeros((B, 1), np.int32), np.zeros(B, np.int32)
            for i in active:
                token_B1[i, 0], count_B[i] = contexts[i][-1], 1
            logits_B1V, self._cache = self._lm.extend(self._lm.params, self._cache, token_B1, count_B)
            logits_BV = logits_B1V[:, 0]
        logits_BV = np.asarray(logits_BV, np.float64)
        return logits_BV - np.logaddexp.reduce(logits_BV, axis=1, keepdims=True)


def evaluated(lm: ConvertedLM, prompt: Prompt, completion: bytes, mode: Literal["byte", "boundary"]) -> int:
    """How many tokens exact conversion reads after what is in no doubt of a prompt, for a completion.

    byte: the nodes of the completion's tree. boundary: the nodes of the prompt's last text alone, and then
    the completion's tokens, taken as many as those of its own encoding.
    """
    from bytelm.exact.rows import row_of

    if mode == "byte":
        return len(row_of(lm.canonical, lm.bos, prompt, completion).nodes) + 1
    nodes = len(row_of(lm.canonical, lm.bos, prompt, b"").nodes) + 1
    try:
        return nodes + len(_encoded(lm, completion, False))
    except ValueError:  # a completion cut inside a character
        return nodes + len(_encoded(lm, completion.decode("utf-8", "ignore").encode(), False))
