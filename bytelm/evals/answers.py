"""What an evaluation harness asks of a language model, answered by a `ByteLM`: in bytes, in batches.

It knows no harness (`bytelm.evals.harness` does), so contexts, continuations and settings are plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bytelm.generate import generate
from bytelm.lm import ByteLM, as_bytes

MAX_BYTES = 256  # of a completion, where a task does not say
Progress = Callable[[int], object]


def loglikelihoods(
    lm: ByteLM,
    pairs: Sequence[tuple[str, str]],
    *,
    batch: int = 8,
    room: int | None = None,
    progress: Progress = lambda done: None,
) -> list[tuple[float, bool]]:
    """For each (context, continuation): log p(continuation | context) in nats, and whether it is byte-greedy.

    The bytes of both are taken as they are: no space moves from one to the other, and a token of a converted
    model may begin in the context and end in the continuation. What follows the continuation is open: its
    probability is of a beginning, not with the end of text. It is byte-greedy if `generate` at temperature 0
    would begin with it: each byte is the likeliest symbol of its law, the lowest of several such.

    Where context and continuation are longer than `room` bytes, the context loses its beginning. By default
    nothing is cut, and a model may refuse what is too long for it (converted ones do, with ValueError).
    """
    found: dict[int, tuple[float, bool]] = {}
    data = [(as_bytes(context), as_bytes(continuation)) for context, continuation in pairs]
    data = [(_last(a, None if room is None else room - len(b)), b) for a, b in data]
    for rows in _batches([len(a) + len(b) for a, b in data], batch):
        laws = lm.laws([data[i][1] for i in rows], [data[i][0] for i in rows])
        for i, law_TV in zip(rows, laws, strict=True):
            symbol_T = np.frombuffer(data[i][1], np.uint8)
            law_TV = np.asarray(law_TV)[: len(symbol_T)]
            total = law_TV[np.arange(len(symbol_T)), symbol_T].sum()
            found[i] = float(total), bool((law_TV.argmax(axis=1) == symbol_T).all()) and total > -np.inf
        progress(len(rows))
    return [found[i] for i in range(len(data))]


def documents(
    lm: ByteLM, texts: Sequence[str], *, batch: int = 8, progress: Progress = lambda done: None
) -> list[float]:
    """log p of all bytes of each text, in nats; not of its end, which is no byte (as `bytelm score`).

    A text longer than the model's context is read as `ByteLM.score` reads it.
    """
    found: dict[int, float] = {}
    data = [as_bytes(text) for text in texts]
    for rows in _batches([len(text) for text in data], batch):
        for i, score_T in zip(rows, lm.score([data[i] for i in rows]), strict=True):
            found[i] = float(np.asarray(score_T)[:-1].sum())
        progress(len(rows))
    return [found[i] for i in range(len(data))]


def completions(
    lm: ByteLM,
    requests: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    batch: int = 8,
    max_bytes: int = MAX_BYTES,
    room: int | None = None,
    progress: Progress = lambda done: None,
) -> list[str]:
    """Completes each context by its settings, named as in lm-evaluation-harness.

    `until` are stop strings; `max_gen_toks` counts *bytes*; without `do_sample`, or at temperature 0, the
    likeliest byte is taken; `temperature`, `top_k`, `top_p`, `min_p` are of the law of a byte.
    Bytes that are no UTF-8 become U+FFFD. Where context and `max_gen_toks` are more than `room` bytes, the
    context loses its beginning. Raises ValueError for any other setting.
    """
    found: dict[int, str] = {}
    alike: dict[str, list[int]] = {}
    settings = [settings_of(given, max_bytes) for _, given in requests]
    for i, setting in enumerate(settings):
        alike.setdefault(repr(sorted(setting.items())), []).append(i)
    for members in alike.values():
        setting = settings[members[0]]
        for number, rows in enumerate(_batches([len(requests[i][0]) for i in members], batch)):
            seed = setting["seed"] + number  # or the rows of all batches would draw alike
            left = None if room is None else room - setting["max_bytes"]
            prompts = [_last(as_bytes(requests[members[j]][0]), left) for j in rows]
            for j, text in zip(rows, generate(lm, prompts, **{**setting, "seed": seed}), strict=True):
                found[members[j]] = text.decode("utf-8", "replace")
            progress(len(rows))
    return [found[i] for i in range(len(requests))]


def settings_of(given: Mapping[str, Any], max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The arguments of `generate` that a task's generation settings stand for."""
    rest = dict(given)
    until = rest.pop("until", None) or []
    stop = [until] if isinstance(until, str) else list(until)
    temperature = float(rest.pop("temperature", 1.0))
    sample = rest.pop("do_sample", False)
    found: dict[str, Any] = {
        "stop": [as_bytes(s) for s in stop if s],
        "max_bytes": int(rest.pop("max_gen_toks", max_bytes)),
        "temperature": temperature if sample else 0.0,
        "seed": int(rest.pop("seed", 0)),
    }
    for name in ("top_k", "top_p", "min_p"):
        value = rest.pop(name, None)
        if sample and value is not None:
            found[name] = value
    if rest:
        raise ValueError(
            f"generation settings {', '.join(sorted(rest))}: not known to byte models; known are until, "
            "max_gen_toks (which counts bytes), do_sample, temperature, top_k, top_p, min_p, seed"
        )
    return found


def _last(context: bytes, left: int | None) -> bytes:
    """At most `left` bytes from the end, beginning with a character; None: all."""
    if left is None or len(context) <= left:
        return context
    first = len(context) - max(left, 0)
    while first < len(context) and 0x80 <= context[first] < 0xC0:
        first += 1
    return context[first:]


def _batches(sizes: Sequence[int], batch: int) -> list[list[int]]:
    """Neighbours in size together, the longest first, so that memory runs out early or never."""
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, not {batch}")
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    return [order[first : first + batch] for first in range(0, len(order), batch)]
