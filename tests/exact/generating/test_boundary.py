"""Boundary mode: the distribution of byte mode, token by token."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tokenizer_zoo
from token_models import HistoryLM, RecurrentLM, both

import bytelm
from bytelm.exact import convert
from bytelm.exact.canonical.canonical import canonical_of, follow
from bytelm.lm import END, FastGenerate, Special


@pytest.fixture(scope="module")
def tiny():
    return {name: canonical_of(tokenizer_zoo.TINIES[name]()) for name in ("gpt2", "sp-fallback")}


def completions(lm, prompt: bytes, count: int) -> dict[bytes, float]:
    """Every completion of at most `count` bytes and its probability, from the laws of bytes."""
    found, level = {}, {b"": 1.0}
    for _ in range(count):
        laws = np.exp(lm.next_logprobs(lm.start([prompt + done for done in level])))
        longer = {}
        for (done, p), law in zip(level.items(), laws, strict=True):
            found[done] = p * law[END]
            longer |= {done + bytes([b]): p * law[b] for b in np.flatnonzero(law[:256]).tolist()}
        level = longer
    return found | level


def chi_square(samples: list[bytes], expected: dict[bytes, float]) -> tuple[float, int]:
    counts = collections.Counter(samples)
    big = {c: p * len(samples) for c, p in expected.items() if p * len(samples) >= 5}
    rest, seen = len(samples) - sum(big.values()), len(samples) - sum(counts[c] for c in big)
    parts = [(counts[c] - e) ** 2 / e for c, e in big.items()] + [(seen - rest) ** 2 / max(rest, 5)]
    return sum(parts), len(parts) - 1


@pytest.mark.parametrize("name", ["gpt2", "sp-fallback"])
@pytest.mark.parametrize("prompt", [b"", b"a", b"a  "])
def test_boundary_mode_has_the_distribution_of_byte_mode(tiny, name, prompt):
    tree, plain = both(tiny[name], bos=0)
    expected = completions(tree, prompt, 3)
    np.testing.assert_allclose(sum(expected.values()), 1, atol=1e-5)
    for lm, count in ((tree, 3000), (plain, 1000)):
        samples = bytelm.generate(lm, [prompt] * count, max_bytes=3, mode="boundary", seed=1)
        statistic, freedom = chi_square(samples, expected)
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5
    # The control: a prompt's own encoding is not its posterior.
    if prompt == b"a" and name == "gpt2":
        canonical, contexts = tiny[name], plain.start([prompt]).model
        draw = np.random.default_rng(0)
        encoded = canonical.source.encode(prompt.decode())
        naive = []
        for _ in range(3000):
            path, data = list(encoded), b""
            while len(data) < 3:
                q = contexts.probabilities(
                    plain.token_lm.next_token_logprobs([[0, *path]])[0], path[-1], follow(canonical, path)
                )
                column = draw.choice(len(q), p=q)
                if column >= plain.columns.rows:
                    break
                path.append(int(plain.columns.order[column]))
                data += canonical.vocabulary.data[path[-1]]
            naive.append(data[:3])
        statistic, freedom = chi_square(naive, expected)
        assert statistic > freedom + 10 * (2 * freedom) ** 0.5


def test_stops_seeds_and_settings(tiny):
    tree, plain = both(tiny["gpt2"], bos=0)
    joint, _ = both(tiny["gpt2"], "joint", bos=0)
    assert isinstance(tree, FastGenerate)
    prompts = [b"a", b"as ", [b"1", Special("<|end|>")], "é".encode()[:1]]
    settings = {"max_bytes": 30, "mode": "boundary", "seed": 3}
    found = bytelm.generate(tree, prompts, **settings)
    assert all(len(one) <= 30 for one in found)
    assert found == bytelm.generate(tree, prompts, **settings)
    assert found != bytelm.generate(tree, prompts, **settings | {"seed": 4})
    assert found[:2] == bytelm.generate(tree, prompts[:2], **settings)  # companions do not matter
    assert found == bytelm.generate(tree, prompts, max_bytes=30, seed=3)  # the default, for plain completion
    cut = bytelm.generate(tree, prompts, **settings, stop=[b"a", b"sa"])
    for one, whole in zip(cut, found, strict=True):
        assert b"a" not in one
        assert whole.startswith(one)
    greedy = [bytelm.generate(lm, prompts, **settings, token_temperature=0) for lm in (tree, plain)]
    assert greedy[0] == greedy[1]
    assert greedy[0] == bytelm.generate(tree, prompts, **settings | {"seed": 9}, token_temperature=0)
    assert bytelm.generate(tree, prompts, max_bytes=0, mode="boundary") == [b""] * 4
    bytelm.generate(tree, prompts, max_bytes=3, temperature=0.5)  # byte by byte
    with pytest.raises(ValueError, match="boundary"):
        bytelm.generate(joint, prompts, **settings)
    with pytest.raises(RuntimeError, match="row 1, byte 0"):
        bytelm.generate(tree, [b"a", b"\xff"], **settings)


def test_long_completions_outgrow_their_cache(tiny, monkeypatch):
    from bytelm.exact.generating import boundary

    tree, _ = both(tiny["gpt2"], bos=0)
    whole = bytelm.generate(tree, [b"a", b"s"], max_bytes=400, mode="boundary")
    monkeypatch.setattr(boundary, "_AHEAD", 3)
    tree, _ = both(tiny["gpt2"], bos=0)
    assert bytelm.generate(tree, [b"a", b"s"], max_bytes=400, mode="boundary") == whole


def test_very_low_temperatures_take_the_likeliest(tiny):
    for lm in both(tiny["gpt2"], bos=0):

        def found(temperature, lm=lm):
            prompts = [b"a", b"as "]
            return bytelm.generate(lm, prompts, max_bytes=9, mode="boundary", token_temperature=temperature)

        likeliest = found(0.0)
        for temperature in (1e-8, 1e-20, 1e-37, 1e-46, 5e-324):
            assert found(temperature) == likeliest
        assert found(3.0) != likeliest


class Silent(HistoryLM):
    """Says nothing after three tokens."""

    def law(self, context):
        law = super().law(context)
        return law if len(context) < 3 else np.full_like(law, -np.inf)


class SilentTree(RecurrentLM):
    """Says nothing after one token."""

    def extend(self, *args):
        logits_BNV, cache = super().extend(*args)
        return logits_BNV.at[:].set(-np.inf), cache


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_is_possible_the_row_is_named(tiny, temperature):
    """As in byte mode, and no byte is made up."""
    canonical = tiny["gpt2"]
    size = canonical.vocabulary.size + 3
    for one in (Silent(size), SilentTree(size)):
        lm = convert(one, canonical, bos=0, eos=[size - 1])
        with pytest.raises(RuntimeError, match=r"row 0, byte [1-9].* no symbol is possible"):
            bytelm.generate(lm, [b""], max_bytes=30, mode="boundary", token_temperature=temperature)
