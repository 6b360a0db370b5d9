"""Texts drawn while training, added to a run's samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bytelm import models
from bytelm.config import Config
from bytelm.parameters import on_one_device
from bytelm.training.metrics import write_whole

if TYPE_CHECKING:
    from bytelm.data import Tokens
    from bytelm.tokenized import TransformerLM


class Sampler:
    """Draws a text for each of the config's prompts: byte by byte, or in a tokenized run token by token.

    Without prompts it asks nothing of the model, which may be one that generates nothing: one of hidden
    words, a classifier.
    """

    def __init__(self, folder: Path, config: Config, model: Any, tokens: Tokens | None):
        """`model` may be abstract. To be called outside a mesh: one device is enough for a few rows."""
        self._path, self._config, self._tokens = folder / "samples.jsonl", config.samples, tokens
        self._lm: Any = None
        if not config.samples.prompts or not models.is_causal(config.model):
            return
        if tokens is None:
            from bytelm.trained import TrainedLM

            self._lm = TrainedLM(model, {}, config.data.row)
        else:
            from bytelm.tokenized import TransformerLM

            self._lm = TransformerLM(config.model, {})  # type: ignore[arg-type]

    def __call__(self, step: int, params: Any) -> None:
        if self._lm is None or jax.process_count() > 1:
            return  # sampling is one host's work and the parameters may lie on others
        c = self._config
        settings: dict[str, Any] = {
            "max_bytes": c.max_bytes, "temperature": c.temperature, "top_p": c.top_p, "seed": step,
        }  # fmt: skip
        params = on_one_device(params)
        if self._tokens is None:
            from bytelm.generate import generate

            texts = generate(self._lm.with_params(params), c.prompts, **settings)
        else:
            from bytelm.models.token_lm import unstack

            texts = draw_tokens(self._lm.with_params(unstack(params)), self._tokens, c.prompts, **settings)
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]
        new = [
            json.dumps({"step": step, "prompt": p, "text": t.decode("utf-8", "replace")})
            for p, t in zip(c.prompts, texts, strict=True)
        ]
        write_whole(self._path, "".join(line + "\n" for line in (*kept, *new)))


def draw_tokens(
    lm: TransformerLM,
    tokens: Tokens,
    prompts: Sequence[str],
    *,
    max_bytes: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[bytes]:
    """Completions token by token, whole tokens of at most `max_bytes` bytes in all; a glance at a model.

    The prompt is closed as its own tokens, and the settings are of the law of a token: a converted model
    (`bytelm.load`) does neither.
    """
    encoded = tokens.encode([prompt.encode() for prompt in prompts])
    rows = [[tokens.end, *(() if ids is None else ids.tolist())][-lm.context // 2 :] for ids in encoded]
    length_B = np.array([len(row) for row in rows])
    slots = -(-(length_B.max() + max_bytes) // 64) * 64  # a token has a byte at least
    tokens_BS = np.zeros((len(rows), -(-length_B.max() // 16) * 16), np.int32)
    for b, row in enumerate(rows):
        tokens_BS[b, : len(row)] = row
    logits_BV, cache = lm.open(lm.params, tokens_BS, length_B, slots=int(slots), nodes=0)
    law_BV = np.asarray(logits_BV)
    allowed_V = (tokens.sizes_V > 0) | (np.arange(len(tokens.sizes_V)) == tokens.end)
    texts, random = [bytearray() for _ in rows], np.random.default_rng(seed)
    active_B = np.ones(len(rows), bool)
    for _ in range(min(max_bytes, lm.context - int(length_B.max()))):
        chosen_B1 = np.zeros((len(rows), 1), np.int32)
        for b in np.flatnonzero(active_B).tolist():
            token = _choose(np.where(allowed_V, law_BV[b], -np.inf), temperature, top_p, random)
            data = tokens.data[token]
            active_B[b] = bool(data) and len(texts[b]) + len(data) <= max_bytes
            if active_B[b]:
                texts[b] += data
                chosen_B1[b] = token
        if not active_B.any():
            break
        logits_BNV, cache = lm.extend(lm.params, cache, chosen_B1, active_B.astype(np.int32))
        law_BV = np.asarray(logits_BNV)[:, 0]
    return [bytes(text) for text in texts]


def _choose(logits_V: np.ndarray, temperature: float, top_p: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    p_V = np.exp((logits_V - logits_V.max()).astype(np.float64) / temperature)
    order = np.argsort(-p_V, kind="stable")
    sums = np.cumsum(p_V[order] / p_V.sum())
    kept = int(sums.searchsorted(top_p)) + 1  # the fewest that together have top_p
    return int(order[min(sums[:kept].searchsorted(random.random() * sums[:kept][-1]), kept - 1)])
