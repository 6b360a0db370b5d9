"""Trained models as `ByteLM`s: the contract, windows over long texts, caches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_byte_lm

from bytelm import models
from bytelm.generate import generate
from bytelm.lm import END, LAW, Special, symbols_of
from bytelm.models import ByteTransformerConfig, WordPooledConfig
from bytelm.parameters import params_of, with_params
from bytelm.trained import TrainedLM

CONTEXT = 40  # above the least that rows are padded to
STRIDE = CONTEXT // 2
FIM = [Special("<fim_prefix>"), b"ab", Special("<fim_suffix>"), Special("<fim_middle>")]


SIZES = {"layers": 2, "width": 16, "heads": 2, "key_heads": 1, "mlp_width": 16, "dtype": "float32"}
BYTES = {"byte_width": 8, "byte_heads": 2, "byte_mlp_width": 16, "decoder_layers": 1, "cap": 6}
CONFIGS = {
    "whole": ByteTransformerConfig(**SIZES),
    "ring": ByteTransformerConfig(**SIZES, window=15),
    "words": WordPooledConfig(**SIZES, **BYTES, words=60, rule="closing"),
    "few words": WordPooledConfig(**SIZES, **BYTES, words=12, rule="runs", span=2),  # random bytes need more
}


def make(config):
    model, random = jax.eval_shape(lambda: models.build(config, jax.random.key(0))), np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.5 * random.standard_normal(x.shape), x.dtype), params_of(model)
    )
    return model, TrainedLM(model, params, CONTEXT)


@pytest.fixture(
    scope="module",
    params=[pytest.param(x, marks=[pytest.mark.slow] if x == "few words" else []) for x in CONFIGS],
)
def both(request):
    return make(CONFIGS[request.param])


@pytest.fixture(scope="module")
def lm(both):
    return both[1]


@pytest.fixture(scope="module")
def slow_laws(both):
    """The law after every symbol, each from a whole window read by itself, as the docstring says."""
    model, lm = both
    run = jax.jit(lambda x: jax.nn.log_softmax(with_params(model, lm._params)(x)))

    def laws(symbols):
        found = []
        for p, start in enumerate(starts(model, symbols)):
            window = np.zeros((1, CONTEXT), np.int32)
            window[0, : p + 1 - start] = symbols[start : p + 1]
            found.append(np.asarray(run(window))[0, p - start])
        return np.stack(found)

    return laws


def starts(model, symbols):
    """Where the window begins that the law after each symbol comes from, trying symbol after symbol."""
    if isinstance(model.config, ByteTransformerConfig):
        return [0 if p < CONTEXT else ((p - CONTEXT) // STRIDE + 1) * STRIDE for p in range(len(symbols))]

    def fits(a, b):
        """Whether symbols [a, b) fit into a window."""
        ended = model.config.boundaries.ended_before(np.append(symbols[a:b], 97))
        known = ended[1:].sum() if model.config.boundaries.at_once else ended[1:-1].sum()
        return b - a <= CONTEXT and known <= model.config.words

    found, start = [], 0
    for p in range(len(symbols)):
        if not fits(start, p + 1):
            kept = (p - start) // 2
            while kept and not fits(p - kept, p + 1):
                kept //= 2
            start = p - kept
        found.append(start)
    return found


def text(length, seed=0):
    return np.random.default_rng([seed, length]).integers(0, 256, length, np.uint8).tobytes()


def test_contract(lm):
    """Ragged prompts and texts whose ends, with END in front, fall on every edge of a window."""
    edges = [0, 1, CONTEXT - 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, CONTEXT + STRIDE - 1]
    edges += [CONTEXT + STRIDE, CONTEXT + STRIDE + 1, 2 * CONTEXT + 3]
    prompts = [b"", "é", FIM, text(CONTEXT - 1), text(CONTEXT), b"", text(70), b"a", b"", FIM]
    assert_byte_lm(lm, [text(n) for n in edges], prompts, atol=1e-4)


def test_laws_are_those_of_the_stated_windows(lm, slow_laws):
    lengths = [0, 31, 32, CONTEXT - 1, CONTEXT, CONTEXT + 1, CONTEXT + STRIDE, 3 * CONTEXT]
    texts, prompts = zip(
        *[(text(n), p) for n in lengths for p in (b"", FIM, text(CONTEXT + 3, seed=1))], strict=True
    )
    for data, prompt, laws, scores in zip(
        texts, prompts, lm.laws(texts, prompts), lm.score(texts, prompts), strict=True
    ):
        before = [END, *symbols_of(prompt)]
        expected = slow_laws([*before, *data])[len(before) - 1 :]
        np.testing.assert_allclose(laws, expected, atol=1e-4)
        np.testing.assert_allclose(scores, expected[np.arange(len(data) + 1), [*data, END]], atol=1e-4)


def test_control_other_windows_differ(slow_laws):
    """Were the windows placed one symbol off, the comparison above would see it."""
    symbols = [END, *text(2 * CONTEXT)]
    shifted = slow_laws(symbols[1:])[CONTEXT:]
    assert np.abs(shifted - slow_laws(symbols)[CONTEXT + 1 :]).max() > 1e-2


def test_score_is_the_sum_along_push(lm):
    """To 1e-4 nats a text, in float32."""
    data = text(3 * CONTEXT, seed=5)
    state, total = lm.start([b""]), 0.0
    for symbol in (*data, END):
        total += lm.next_logprobs(state)[0, symbol]
        if symbol != END:
            state = lm.push(state, [symbol])
    assert abs(total - lm.score([data])[0].sum()) < 1e-4 * max(1, len(data) / 10)


def test_cached_generation_is_uncached_greedy(lm):
    prompts = [b"", b"once upon a time", text(CONTEXT - 3), FIM]
    found = generate(lm, prompts, max_bytes=30, temperature=0)
    for prompt, completion in zip(prompts, found, strict=True):
        out = b""
        while len(out) < 30:
            best = int(lm.laws([out], [prompt])[0][-1].argmax())
            if best == END:
                break
            out += bytes([best])
        assert completion == out
        assert generate(lm, [prompt], max_bytes=30, temperature=0) == [completion]
    assert len(set(found)) > 1


def test_end_may_be_pushed(lm, slow_laws):
    state = lm.start([b"ab", b"x"])
    state = lm.push(state, [END, None])
    state = lm.push(state, [ord("c"), END])
    expected = slow_laws([END, *b"ab", END, ord("c")])[-1], slow_laws([END, *b"x", END])[-1]
    np.testing.assert_allclose(lm.next_logprobs(state), expected, atol=1e-4)


def test_none_leaves_a_row_across_the_edge_of_a_window(lm, slow_laws):
    data = text(CONTEXT + 5)
    state = lm.start([data[:-1], data[: CONTEXT - 2]])
    before = lm.next_logprobs(state)[0]
    for symbol in data[CONTEXT - 2 :]:
        state = lm.push(state, [None, symbol])
        np.testing.assert_array_equal(lm.next_logprobs(state)[0], before)
    state = lm.push(state, [data[-1], None])
    law_BV = lm.next_logprobs(state)
    np.testing.assert_allclose(law_BV[0], law_BV[1], atol=1e-4)
    np.testing.assert_allclose(law_BV[0], slow_laws([END, *data])[-1], atol=1e-4)


def test_sentinels_are_read(lm):
    one, two = lm.laws([b"", b""], [[Special("<mask>"), b"ab"], b"ab"])
    assert np.abs(one - two).max() > 1e-2


def test_nothing_and_empty(lm):
    assert lm.score([]) == []
    assert lm.laws([]) == []
    (score,), (law,) = lm.score([b""]), lm.laws([b""])
    assert score.shape == (1,)
    assert law.shape == (1, LAW)
    assert score[0] == law[0, END]


def test_other_parameters_share_what_is_compiled(lm):
    other = lm.with_params(jax.tree.map(lambda x: 2 * x, lm._params))
    assert other._score is lm._score
    assert np.abs(other.score([b"abc"])[0] - lm.score([b"abc"])[0]).max() > 1e-2


@pytest.mark.parametrize("symbols", [[1], [1, 2, 3], [256 + 1, 2], [-1, 2]])
def test_bad_pushes(lm, symbols):
    with pytest.raises(ValueError, match="push: "):
        lm.push(lm.start([b"", b"a"]), symbols)


def test_prompts_and_texts_must_match(lm):
    with pytest.raises(ValueError, match="2 texts but 1 prompts"):
        lm.score([b"a", b"b"], [b""])


def test_generation_on_the_device_is_byte_by_byte(lm):
    """Greedy, 500 bytes, prompts of four lengths, over many windows; then with a stop string and a limit."""
    prompts = [b"", b"once upon a time, ", text(CONTEXT - 3), FIM]
    found = generate(lm, prompts, max_bytes=500, temperature=0)
    state, slow = lm.start(prompts), [bytearray() for _ in prompts]
    for _ in range(500):
        best_B = lm.next_logprobs(state).argmax(axis=1)
        if all(len(f) <= len(s) for f, s in zip(found, slow, strict=True)):
            break
        ongoing = [len(s) < len(f) for f, s in zip(found, slow, strict=True)]
        for s, b, on in zip(slow, best_B, ongoing, strict=True):
            s += bytes([b]) if on else b""
        state = lm.push(state, [int(b) if on else None for b, on in zip(best_B, ongoing, strict=True)])
    assert found == [bytes(s) for s in slow]
    for i, (f, b) in enumerate(zip(found, lm.next_logprobs(state).argmax(axis=1), strict=True)):
        assert len(f) == 500 or b == END, i
    stop = found[1][70:73]
    cut = generate(lm, prompts, max_bytes=100, temperature=0, stop=[stop])
    for f, c in zip(found, cut, strict=True):
        at = f[:100].find(stop)
        assert c == (f[:100] if at < 0 else f[:at])


def test_a_row_does_not_depend_on_its_companions(lm):
    sampling = {"max_bytes": 90, "temperature": 0.9, "top_p": 0.9, "seed": 3}
    together = generate(lm, [b"ab", text(30), b""], **sampling)
    assert generate(lm, [b"ab"], **sampling) == together[:1]
    assert generate(lm, [b"ab", b"other", b""], **sampling)[2] == together[2]
    assert generate(lm, [b"ab"], **{**sampling, "seed": 4}) != together[:1]
