"""Models of hidden words, Byte2Word's and BERT's: what they may know, against written out, counts."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_byte2word import cut, encoded, float64, slot_law, stacked

from bytelm import models, words
from bytelm.config import Optimizer
from bytelm.lm import END, MASK
from bytelm.models import BertConfig, MaskedByte2WordConfig, masking, pieces
from bytelm.models.masking import MASKED
from bytelm.parameters import flat, matrices_of, nested, params_of, rates_of, with_params
from bytelm.training.optimizer import make_optimizer
from bytelm.training.step import TrainState, make_train_step

T = 48
PIECES = pieces.to_text({b"the", b" the", b"at", b" c", b"og", b"an", "й".encode(), b"th", b"e d"})
DOCUMENTS = (b"the cat and the dog, zq", "при й".encode(), b"\xff\x00ab 12 the")
KINDS = {"words": MaskedByte2WordConfig, "bert": BertConfig}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind, **changes):
    changes = {"rule": "runs", "words": T, "cap": 8, "units": T, "pieces": PIECES, "share": 0.4, **changes}
    return small.build(KINDS[kind], **changes)


def batch(rows=2):
    """Three documents, each with END before it, and padding; rows alike."""
    symbols, numbers = [], []
    for number, text in enumerate(DOCUMENTS, start=1):
        symbols += [END, *text]
        numbers += [number] * (len(text) + 1)
    symbols, numbers = (np.array(x + [0] * (T - len(x)), np.int32) for x in (symbols, numbers))
    inputs, documents = (np.repeat(x[None], rows, axis=0) for x in (symbols, numbers))
    return {"inputs": inputs, "targets": np.roll(inputs, -1, axis=1), "documents": documents}


def hidden(rows, *which):
    """A batch in which the words of these numbers are hidden, in every row."""
    chosen_BT = np.zeros((rows, T), bool)
    chosen_BT[:, list(which)] = True
    read_BT = np.where(chosen_BT, MASKED, np.arange(T)).astype(np.int32)
    return {**batch(rows), "chosen": chosen_BT, "read": read_BT}


def spans(symbols=None, documents=None):
    """(start, stop, document) of the words of a row."""
    symbols = batch()["inputs"][0] if symbols is None else symbols
    documents = batch()["documents"][0] if documents is None else documents
    starts = np.flatnonzero(words.rule("runs", 8).ended_before(symbols, documents))
    return [(a, b, documents[a]) for a, b in itertools.pairwise([*starts, T])]


def held():
    """The numbers of the words that hold bytes."""
    return [i for i, (a, _, document) in enumerate(spans()) if document and batch()["inputs"][0, a] < END]


def greedy(word, vocabulary):
    """The canonical pieces of a word, by their definition."""
    found = []
    while len(word):
        sizes = (
            [n for n in range(1, len(word) + 1) if bytes(word[:n].tolist()) in vocabulary]
            if word[0] < 256
            else []
        )
        n = max(sizes, default=1)
        found.append((tuple(word[:n].tolist()), n))
        word = word[n:]
    return found


# ---- pieces --------------------------------------------------------------------------------------------


def test_pieces_are_the_longest():
    v = pieces.vocabulary(PIECES)
    symbols_BT = batch()["inputs"]
    begins_BT = words.rule("runs", 8).ended_before(symbols_BT, batch()["documents"])
    found = jax.jit(lambda s, b: pieces.cut(v, s, b))(symbols_BT, begins_BT)
    expected, longer = [], 0
    for a, b, _ in spans():
        at = a
        for place, (piece, n) in enumerate(greedy(symbols_BT[0, a:b], set(v.spellings))):
            number = v.end if piece[0] == END else v.spellings.index(bytes(piece))
            expected.append((at, number, place))
            longer += n > 1
            at += n
    starts_T, piece_T, place_T = (np.asarray(x[0]) for x in found[:3])
    at_N = np.flatnonzero(starts_T)
    np.testing.assert_array_equal(list(zip(at_N, piece_T[at_N], place_T[at_N], strict=True)), expected)
    assert longer > 5
    assert b"e d" in v.spellings  # which crosses words, and so is none of them


def test_vocabulary():
    v = pieces.vocabulary(PIECES)
    assert (v.end, v.stop, v.outputs, v.longest) == (len(v.spellings), v.end + 1, v.end + 2, 4)
    assert {bytes([b]) for b in range(256)} < set(v.spellings)
    assert pieces.vocabulary().outputs == 258
    node = 0
    for byte in b" th":
        node = int(pieces.walk(v, jnp.array([node]), jnp.array([byte]))[0])
    assert [v.spellings[i] for i in range(v.low_N[node], v.high_N[node])] == [b" the"]
    assert (
        pieces.walk(v, jnp.array([node, node, -1]), jnp.array([ord("x"), END, ord("e")])).tolist() == [-1] * 3
    )


# ---- what a prediction knows ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    """A model, and what it says of a batch of three rows."""
    model = build(request.param)
    run = jax.jit(lambda m, b: (m.nats(b), m.counts(b), *m._predict(b, None)))
    return model, lambda batch: run(model, batch)


ZQ = 7  # the word " zq", of which no pieces are longer than a byte


def test_nothing_of_a_hidden_word_is_known(both):
    """Changing its bytes moves nothing, to the bit, and no gradient reaches them; another word's do both."""
    model, run = both
    a, b, _ = spans()[ZQ]
    changed = hidden(3, ZQ)
    changed["inputs"][1, a + 1 : b] = list(b"xw")
    changed["inputs"][2, 1:4] = list(b"fix")  # "the": seen
    assert spans(changed["inputs"][1]) == spans()
    same_MV, moved_MV, control_MV = np.asarray(run(changed)[-1])[:, :3]
    np.testing.assert_array_equal(same_MV, moved_MV)
    assert np.abs(control_MV - same_MV).max() > 1e-3
    leaking = {**changed, "read": np.broadcast_to(np.arange(T, dtype=np.int32), (3, T))}
    same_MV, moved_MV, _ = np.asarray(run(leaking)[-1])[:, :3]
    assert np.abs(same_MV - moved_MV).max() > 1e-3  # control: a hidden word that is read

    params, v = flat(params_of(model)), model.config.vocabulary
    name = "table" if isinstance(model.config, BertConfig) else "reader/table"

    def loss(table, batch):
        whole = with_params(model, nested({**params, name: table}))
        return jnp.sum(jnp.sin(whole._predict(batch, None)[1][0, :1]))

    grad = jax.jit(jax.grad(loss))

    def reached(batch, data):
        """How far the loss feels each of these bytes, which are nowhere else in the row."""
        found_V = np.abs(grad(params[name], batch)).sum(axis=1)
        return found_V[[b if name != "table" else v.spellings.index(bytes([b])) for b in data]]

    assert (reached(changed, b"zq") == 0).all()
    assert (reached(changed, b"d,") > 0).all()
    assert (reached({**changed, "read": leaking["read"]}, b"zq") > 0).all()  # control


@every_kind
def test_documents_do_not_see_each_other(kind):
    """Packed states are those of each document alone, in a row that is padded."""
    model = build(kind)
    run = jax.jit(model.states)
    one = batch(1)
    z_BWD, document_BW = run(one["inputs"], one["documents"])
    for number in (1, 2, 3):
        mine_T = one["documents"][0] == number
        alone = np.zeros((2, 1, T), np.int32)
        alone[0, 0, : mine_T.sum()], alone[1, 0, : mine_T.sum()] = one["inputs"][0, mine_T], 1
        expected_BWD, of_BW = run(*alone)
        count = int((np.asarray(document_BW) == number).sum())
        assert count == int((np.asarray(of_BW) == 1).sum()) > 1
        np.testing.assert_allclose(z_BWD[document_BW == number], expected_BWD[0, :count], atol=1e-4)
    mixed_BWD, _ = run(one["inputs"], np.minimum(one["documents"], 1))
    assert np.abs(mixed_BWD - z_BWD).max() > 1e-2  # control: one document


# ---- written out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", ["words"], indirect=True)
def test_costs_equal_written_out(both):
    """Word by word and document by document, in float64."""
    (model, run), hides = both, held()[::2]
    v, config, params = model.config.vocabulary, model.config, float64(model)
    found_T = np.asarray(run(hidden(3, *hides))[0])[0]
    symbols_T, at = batch()["inputs"][0], spans()
    expected_T = np.zeros(T)
    for number in (1, 2, 3):
        mine = [i for i, (_, _, document) in enumerate(at) if document == number]
        u = [
            encoded(params, np.array([MASK]) if i in hides else symbols_T[at[i][0] : at[i][1]]) for i in mine
        ]
        z = stacked(params, np.stack(u), config.rope_base, causal=False)
        for i, z_D in zip(mine, z, strict=True):
            if i not in hides:
                continue
            a, b, _ = at[i]
            place, spelled = a, greedy(symbols_T[a:b], set(v.spellings))
            for slot, (piece, n) in enumerate(spelled):
                law = slot_law(params, z_D, slot)
                law[v.stop] *= slot > 0
                expected_T[place] -= np.log(law[v.spellings.index(bytes(piece))] / law.sum())
                place += n
            expected_T[b - 1] -= np.log(slot_law(params, z_D, len(spelled))[v.stop])
    assert (expected_T > 0).sum() > 8
    np.testing.assert_allclose(found_T, expected_T, atol=1e-3)


@pytest.mark.slow
def test_right_words(both):
    """Against argmax, piece by piece; and those whose pieces are all guessed are right."""
    model, run = both
    *_, targets, logits_BMV = run(hidden(3, 1, 4, 7))
    right_BW, asked_BW = jax.jit(model.right)(hidden(3, 1, 4, 7))
    guess_BM = np.asarray(logits_BMV).argmax(-1)
    for b in range(3):
        assert np.flatnonzero(asked_BW[b]).tolist() == [1, 4, 7]
        for word in (1, 4, 7):
            mine_M = np.asarray(targets.real_BM[b] & (targets.word_BM[b] == word))
            assert mine_M.any()
            assert right_BW[b, word] == (guess_BM[b, mine_M] == targets.output_BM[b, mine_M]).all()
    assert not np.asarray(right_BW).all()
    all_BW, _ = masking.right(targets, targets.output_BM, right_BW.shape[1])
    np.testing.assert_array_equal(all_BW, asked_BW)


# ---- which words ---------------------------------------------------------------------------------------


@every_kind
def test_which_words_are_hidden(kind):
    model, of = build(kind, share=0.15, mixed=True), batch(400)
    draw = jax.jit(model.draw)
    drawn = [draw(of, key) for key in (None, None, jax.random.key(1), jax.random.key(2))]
    chosen = [np.asarray(x["chosen"]) for x in drawn]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[2] != chosen[3]).any()
    assert (chosen[0] != chosen[2]).any()
    holds = np.isin(np.arange(len(spans())), held())
    for chosen_BT in chosen:
        assert not chosen_BT[:, : len(holds)][:, ~holds].any()
        assert not chosen_BT[:, len(holds) :].any()
        share = chosen_BT[:, : len(holds)][:, holds].mean()
        assert abs(share - 0.15) < 0.02
    own_T = np.arange(T)
    read_BT = np.asarray(drawn[2]["read"])
    assert (read_BT[~chosen[2]] == np.broadcast_to(own_T, read_BT.shape)[~chosen[2]]).all()
    masked = (read_BT == MASKED)[chosen[2]].mean()
    kept = (read_BT == own_T)[chosen[2]].mean()
    assert abs(masked - 0.8) < 0.04
    assert 0.05 < kept < 0.17
    assert read_BT.max() < T
    assert (np.asarray(drawn[0]["read"])[chosen[0]] == MASKED).all()  # evaluated without the mixture
    plain = jax.jit(build(kind).draw)(of, jax.random.key(1))
    assert (np.asarray(plain["read"])[np.asarray(plain["chosen"])] == MASKED).all()


@pytest.mark.parametrize(
    ("both", "limit"),
    [
        ("words", {"predictions": 9}),
        pytest.param("words", {"words": 7}, marks=pytest.mark.slow),
        pytest.param("bert", {"units": 14}, marks=pytest.mark.slow),
        pytest.param("bert", {"predictions": 9}, marks=pytest.mark.slow),
    ],
    indirect=["both"],
)
def test_limits_lose_whole_words_and_count_them(both, limit, request):
    of = hidden(3, *held())
    model = build(request.node.callspec.params["both"], **limit)
    kept, (all_nats_BT, all_of, *_) = jax.jit(lambda m: (m.nats(of), m.counts(of)))(model), both[1](of)
    nats_BT, counts = kept
    np.testing.assert_array_equal(counts.bytes + counts.lost, all_of.bytes)
    assert np.asarray(all_of.lost).sum() == 0 < np.asarray(counts.lost).sum() < np.asarray(all_of.bytes).sum()
    for a, b, _ in spans():
        assert len(set(np.asarray(counts.lost)[0, a:b].tolist())) == 1  # whole words
    kept_BT = np.asarray(counts.bytes) > 0
    if "predictions" in limit:  # with fewer words than the row has the others are not seen
        np.testing.assert_allclose(nats_BT[kept_BT], all_nats_BT[kept_BT], rtol=1e-4)
    if "words" in limit or "units" in limit:  # with fewer words than the row has
        grads = jax.jit(jax.grad(lambda m: jnp.sum(m.nats(of))))(model)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", ["words", pytest.param("bert", marks=pytest.mark.slow)])
def test_starts_at_the_uniform_law(kind):
    config = build(kind).config
    model = jax.jit(lambda key: models.build(config, key))(jax.random.key(0))
    nats_T = np.asarray(jax.jit(lambda model: model.nats(hidden(1, 1)))(model))[0]
    count = len(greedy(batch()["inputs"][0, slice(*spans()[1][:2])], set(config.vocabulary.spellings)))
    outputs = config.vocabulary.outputs
    expected = count * np.log(outputs) if kind == "bert" else count * np.log(outputs) + np.log(outputs - 1)
    assert nats_T.sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0.0}, "model.share must be in"),
        ({"predictions": 0}, "model.predictions must be positive, got 0"),
        ({"pieces": "6x"}, "model.pieces: not spellings in hex"),
        ({"rule": "spaces"}, "no rule 'spaces'"),
        ({"width": 10, "heads": 4}, "model.width 10 is no multiple of model.heads 4"),
    ],
)
@every_kind
def test_sizes_that_do_not_fit(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind](**fields)


def test_cut_is_that_of_the_rule():
    assert [bytes(w.tolist()) for w in cut(build("words").config, np.frombuffer(b"the cat", np.uint8))] == [
        b"the", b" cat",
    ]  # fmt: skip


@pytest.mark.slow
@every_kind
def test_a_step_of_training_hides_by_its_key(kind):
    """Other words with each step, the same in however many parts; all that is counted is that choice."""
    model, of, found = build(kind, share=0.15), batch(8), {}
    optimizer = make_optimizer(Optimizer(name="adamw"), matrices_of(model), rates_of(model))
    params = params_of(model)
    for parts in (1, 2):
        step = jax.jit(make_train_step(model, optimizer, parts, None))
        for at in (0, 1):
            state = TrainState(jnp.int32(at), params, optimizer.init(params), None)
            found[parts, at] = {k: float(x) for k, x in step(state, of, 1e-3, jax.random.key(3))[1].items()}
    assert found[1, 0]["bytes"] != found[1, 1]["bytes"]
    for name in ("bytes", "nats", "gradient_norm"):
        assert found[1, 0][name] == pytest.approx(found[2, 0][name], rel=1e-4)
    drawn = model.draw(of, jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 1), 1))
    assert found[1, 1]["bytes"] == float(model.counts(drawn).bytes.sum())
