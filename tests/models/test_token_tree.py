"""Trees over a cache against the separate sequences that lead to each node."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bytelm.models import token_cache
from bytelm.models.rotary import Rope
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import params_of, with_params
from bytelm.tokenized import TransformerLM, abstract

V = 29
SMALL = {
    **{"vocab_size": V, "layers": 2, "width": 16, "heads": 4, "key_heads": 2, "mlp_width": 24, "context": 64},
    "dtype": "float32",
}
KINDS = {
    "qwen3": {},
    "learned": {"rope": None, "qk_norm": False, "norm": "layer", "gated": False, "activation": "gelu"},
    "window": {"window": 4},
    "alternating": {"window": 3, "full_layers": (1,), "attention_softcap": 5.0, "logit_softcap": 3.0},
    "parallel": {"parallel": True, "key_heads": 1, "rope": Rope(share=0.5)},
}


def build(seed=0, **changes) -> TransformerLM:
    """A model all of whose parameters are at work."""
    config, random = TokenLMConfig(**SMALL | changes), np.random.default_rng(seed)
    shapes = params_of(abstract(config))
    return TransformerLM(
        config,
        jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape) * 0.4, jnp.float32), shapes),
    )


@pytest.fixture(scope="module", params=KINDS)
def lm(request):
    return build(**KINDS[request.param])


def laws(lm, sequences):
    """log p after each sequence, each read on its own as a whole row."""
    tokens_BT = np.zeros((16, 32), np.int32)
    for b, sequence in enumerate(sequences):
        tokens_BT[b, : len(sequence)] = sequence
    law_BTV = normalised(lm.logits(lm.params, tokens_BT))
    return np.stack([law_BTV[b, len(s) - 1] for b, s in enumerate(sequences)])


def normalised(logits_V):
    logits_V = np.asarray(logits_V, np.float64)
    return logits_V - np.logaddexp.reduce(logits_V, axis=-1, keepdims=True)


class Forest:
    """Rows of trunks and live nodes, kept as plain lists, beside the model's cache."""

    def __init__(self, lm, trunks, slots=32, nodes=12):
        self.lm, self.trunks, self.random = lm, [list(t) for t in trunks], np.random.default_rng(len(trunks))
        self.live = [{} for _ in trunks]  # place -> (parent, the tokens from the trunk's end to it)
        self.nodes = nodes
        tokens_BT, length_B = np.zeros((len(trunks), 16), np.int32), np.array([len(t) for t in trunks])
        for b, trunk in enumerate(trunks):
            tokens_BT[b, : len(trunk)] = trunk
        self.first_BV, self.cache = lm.open(lm.params, tokens_BT, length_B, slots=slots, nodes=nodes)

    def grow(self, n=5):
        """Random nodes at random free places, some of them absent; checks every one."""
        new_3BN = np.full((3, len(self.trunks), n), -1, np.int32)
        expected = []
        for b, live in enumerate(self.live):
            for i in range(n):
                free = [p for p in range(self.nodes) if p not in live]
                if self.random.random() < 0.2 or not free:
                    continue
                parent = int(self.random.choice([-1, *live]))
                token, at = int(self.random.integers(V)), int(self.random.choice(free))
                live[at] = (parent, (*(live[parent][1] if parent >= 0 else ()), token))
                new_3BN[:, b, i] = token, parent, at
                expected.append((b, i, (*self.trunks[b], *live[at][1])))
        logits_BNV, self.cache = self.lm.grow(self.lm.params, self.cache, *new_3BN)
        law_BNV = normalised(logits_BNV)
        found = np.stack([law_BNV[b, i] for b, i, _ in expected])
        return found, laws(self.lm, [sequence for *_, sequence in expected])

    def commit(self):
        """A random path of each row joins its trunk, or none."""
        path_BP = np.full((len(self.trunks), 4), -1, np.int32)
        for b, live in enumerate(self.live):
            short = [p for p in live if len(live[p][1]) <= 4]
            if not short or self.random.random() < 0.2:
                continue
            place, path = int(self.random.choice(short)), []
            prefix = live[place][1]
            while place >= 0:
                path.insert(0, place)
                place = live[place][0]
            path_BP[b, : len(path)] = path
            self.trunks[b] += prefix
            self.live[b] = {
                p: (parent if parent != path[-1] else -1, tokens[len(prefix) :])
                for p, (parent, tokens) in live.items()
                if p not in path and self._descends(live, p, path[-1])
            }
        self.cache = self.lm.commit(self.cache, path_BP)

    @staticmethod
    def _descends(live, place, ancestor):
        while place >= 0 and place != ancestor:
            place = live[place][0]
        return place == ancestor

    def extend(self, n=3):
        count_B = self.random.integers(0, n + 1, len(self.trunks))
        tokens_BN = self.random.integers(0, V, (len(self.trunks), n)).astype(np.int32)
        logits_BNV, self.cache = self.lm.extend(self.lm.params, self.cache, tokens_BN, count_B)
        found, expected = [], []
        for b, count in enumerate(count_B):
            for i in range(count):
                self.trunks[b].append(int(tokens_BN[b, i]))
                found.append(normalised(logits_BNV)[b, i])
                expected.append(list(self.trunks[b]))
            self.live[b] = {} if count else self.live[b]
        return np.stack(found), laws(self.lm, expected)


def trunks(seed=0):
    return [np.random.default_rng(seed).integers(0, V, n).tolist() for n in (7, 0, 12)]


def test_nodes_equal_their_sequences(lm):
    """Growing, committing, reusing places and extending in turn, over ragged trunks."""
    forest = Forest(lm, trunks())
    np.testing.assert_allclose(
        normalised(forest.first_BV)[[0, 2]], laws(lm, [trunks()[0], trunks()[2]]), atol=1e-5
    )
    for step in range(6):
        np.testing.assert_allclose(*forest.grow(), atol=1e-5)
        if step == 3:
            np.testing.assert_allclose(*forest.extend(), atol=1e-5)
        else:
            forest.commit()
        if step == 1:  # the places are where they were
            forest.nodes = 14
            forest.cache = lm.widened(forest.cache, slots=40, nodes=14)
            assert forest.cache.slots == 40
    assert max(map(len, forest.trunks)) > 14


@pytest.mark.parametrize("what", ["ancestor", "sibling", "position"])
def test_one_wrong_bit_is_seen(what):
    """The control: a node that does not see its parent, sees a sibling, or stands elsewhere."""
    lm = build()
    new = np.array([[[3, 5, 7]], [[-1, 0, 0]], [[0, 1, 2]]], np.int32)  # a root and two children
    sequences = [[*trunks()[0], 3, 5, 11]]
    for wrong in (False, True):
        forest = Forest(lm, trunks()[:1])
        _, cache = lm.grow(lm.params, forest.cache, *new)
        if wrong and what == "position":
            cache = cache._replace(position_BM=cache.position_BM.at[0, 1].add(1))
        elif wrong:
            seen = 0 if what == "ancestor" else 2
            cache = cache._replace(sees_BMM=cache.sees_BMM.at[0, 1, seen].set(what == "sibling"))
        logits, _ = lm.grow(lm.params, cache, *np.array([[[11]], [[1]], [[3]]], np.int32))
        difference = np.abs(normalised(logits[0, 0]) - laws(lm, sequences)[0]).max()
        assert (difference > 1e-3) == wrong


def test_blocks_equal_the_whole(lm):
    """A long text read in blocks over the cache, the last one shorter."""
    tokens_BT = np.random.default_rng(1).integers(0, V, (2, 32)).astype(np.int32)
    whole_BTV = lm.logits(lm.params, tokens_BT)
    _, cache = lm.open(lm.params, tokens_BT[:, :5], np.array([5, 5]), slots=32, nodes=0)
    found = []
    for at in range(5, 32, 8):
        block_BN = np.zeros((2, 8), np.int32)
        count = min(8, 32 - at)
        block_BN[:, :count] = tokens_BT[:, at : at + count]
        logits_BNV, cache = lm.extend(lm.params, cache, block_BN, np.array([count, count]))
        found.append(logits_BNV[:, :count])
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), whole_BTV[:, 5:], atol=2e-5)


def test_contexts_equal_whole_rows(lm, monkeypatch):
    """As a tree and as rows; equal contexts, prefixes of others, and strangers."""
    random = np.random.default_rng(2)
    base = random.integers(0, V, 9).tolist()
    contexts = [base, base[:4], [*base, 1], [*base, 2, 3], base, [*base[:6], 0]]
    expected = laws(lm, contexts)
    np.testing.assert_allclose(lm.next_token_logprobs(contexts), expected, atol=1e-5)
    np.testing.assert_allclose(lm.next_token_logprobs([base] * 2), expected[[0, 0]], atol=1e-5)
    monkeypatch.setattr("bytelm.tokenized._TREE", 0)
    np.testing.assert_allclose(lm.next_token_logprobs(contexts), expected, atol=1e-5)
    assert lm.next_token_logprobs([]).shape == (0, V)


def test_gradients_through_a_tree():
    """The gradient of a node's log probability is that of its sequence."""
    lm = build(window=4)
    new = np.array([[[3, 5, 7]], [[-1, 0, 1]], [[2, 0, 1]]], np.int32)
    row = np.array([[*trunks()[0], 3, 5, 7]], np.int32)

    def by_tree(params):
        tokens_1T = np.zeros((1, 16), np.int32)
        tokens_1T[0, :7] = trunks()[0]
        _, cache = lm.open(params, tokens_1T, np.array([7]), slots=16, nodes=4)
        new[1, 0] = -1, 2, 0
        return jax.nn.log_softmax(lm.grow(params, cache, *new)[0][0, 2])[1]

    def by_row(params):
        return jax.nn.log_softmax(lm.logits(params, row)[0, -1])[1]

    for one, two in zip(
        *(jax.tree.leaves(jax.jit(jax.grad(f))(lm.params)) for f in (by_tree, by_row)), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([[1], []], "context 1 is empty"),
        ([[1, V]], f"context 0: token {V}: the model's tokens are 0..{V - 1}"),
        ([[-1]], "token -1"),
        ([[0] * 65], "context 0 has 65 tokens; the model sees 64"),
    ],
)
def test_contexts_that_cannot_be(contexts, message):
    with pytest.raises(ValueError, match=message):
        build().next_token_logprobs(contexts)


def test_more_bad_input():
    lm = build()
    with pytest.raises(ValueError, match="rows of 65 tokens; the model sees 64"):
        lm.logits(lm.params, np.zeros((1, 65), np.int32))
    with pytest.raises(ValueError, match="tokens are integers, not float64"):
        lm.logits(lm.params, np.zeros((1, 5)))
    with pytest.raises(ValueError, match="a trunk of 65 tokens; the model sees 64"):
        lm.open(lm.params, np.zeros((1, 66), np.int32), np.array([65]), slots=66, nodes=0)
    with pytest.raises(ValueError, match="4 slots for rows padded to 5"):
        lm.open(lm.params, np.zeros((1, 5), np.int32), np.array([5]), slots=4, nodes=0)


def test_nothing_is_cut():
    """What has no room is an error that leaves the cache as it was; with room made, nothing is lost."""
    lm, row = build(), np.random.default_rng(3).integers(0, V, (1, 10)).astype(np.int32)
    block_1N, count_1, node = row[:, 6:], np.array([4]), np.array([[[5]], [[-1]], [[2]]], np.int32)

    def opened(slots):
        return lm.open(lm.params, row[:, :6], np.array([6]), slots=slots, nodes=2)[1]

    cache = opened(8)
    with pytest.raises(ValueError, match="extend: row 0 would hold 10 tokens; the cache has 8 slots"):
        lm.extend(lm.params, cache, block_1N, count_1)
    with pytest.raises(ValueError, match="commit: row 0 would hold 9 tokens; the cache has 8 slots"):
        lm.commit(cache, np.array([[0, 1, 0, -1]]))
    with pytest.raises(ValueError, match="grow: place 2; the cache has 2 places"):
        lm.grow(lm.params, cache, *node)
    with pytest.raises(ValueError, match=r"65 tokens; the cache has 128 slots .* the model sees 64"):
        lm.extend(lm.params, opened(128), np.zeros((1, 59), np.int32), np.array([59]))
    with pytest.raises(ValueError, match="a trunk of 7 tokens in rows of 6"):
        lm.open(lm.params, row[:, :6], np.array([7]), slots=8, nodes=0)

    cache = lm.widened(cache, slots=10, nodes=3)
    lm.grow(lm.params, jax.tree.map(jnp.copy, cache), *node)
    logits_BNV, cache = lm.extend(lm.params, cache, block_1N, count_1)
    np.testing.assert_allclose(logits_BNV, lm.logits(lm.params, row)[:, 6:], atol=2e-5)
    assert int(cache.length_B[0]) == 10


def test_committing_writes_no_more_than_the_path():
    """The compiled commit gathers nothing as large as a layer's keys."""
    lm = build()
    _, cache = lm.open(lm.params, np.zeros((1, 16), np.int32), np.array([3]), slots=512, nodes=8)
    commit = jax.jit(token_cache.commit, donate_argnums=0)
    memory = commit.lower(cache, np.zeros((1, 4), np.int32)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < cache.keys[0].nbytes / 4


@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_copies_no_layer(rows):
    """Nor does the compiled step, of one row or of several."""
    lm = build(head_width=32)
    tokens_BT, length_B = np.zeros((rows, 16), np.int32), np.full(rows, 3)
    _, cache = lm.open(lm.params, tokens_BT, length_B, slots=4096, nodes=0)
    step = jax.jit(
        lambda params, *a: token_cache.extend(with_params(abstract(lm.config), params), *a),
        donate_argnums=1,
    )
    memory = step.lower(lm.params, cache, tokens_BT[:, :1], length_B).compile().memory_analysis()
    assert memory.temp_size_in_bytes < cache.keys[0].nbytes / 2
