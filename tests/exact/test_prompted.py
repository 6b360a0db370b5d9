"""Plain token prompts and healing: by hand over small models, and against exact conversion."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizer_zoo
from token_models import HistoryLM, RecurrentLM

from bytelm.exact import convert
from bytelm.exact.canonical.canonical import canonical_of, follow
from bytelm.exact.canonical.states import NOTHING
from bytelm.exact.prompted import complete, encoded, evaluated, nats
from bytelm.lm import Special, Text

TEXT = b"the cat isn't the dog's friend"
END = Special("<|end|>")  # of the small tokenizers: closes a text


@pytest.fixture(scope="module")
def lm():
    return of(HistoryLM)


def of(kind, normalise="local", tokenizer=None):
    tokenizer = tokenizer or tokenizer_zoo.byte_level()
    size = tokenizer.get_vocab_size()
    return convert(kind(size), tokenizer, bos=0, eos=0, normalise=normalise)


def test_a_prompt_s_tokens(lm):
    """Those of the library, text by text."""
    encode = lm.canonical.source.encode
    found = encoded(lm, [b"the ca", END, Text(b"t isn't", False)])
    assert found.tokens == [0, *encode("the ca"), 0, *encode("t isn't")]
    assert found.open_ == 2 + len(encode("the ca"))
    kept, last = found.healed(lm.canonical.vocabulary.data)
    assert kept == found.tokens[:-1]
    assert last == lm.canonical.vocabulary.data[found.tokens[-1]]
    # Nothing is open after a special token: nothing to heal.
    closed = encoded(lm, [b"the ca", END])
    assert closed.healed(lm.canonical.vocabulary.data) == (closed.tokens, b"")


def test_nats_of_plain_tokens_by_hand(lm):
    encode, law = lm.canonical.source.encode, lm.token_lm.law
    context, target = [0, *encode("the c")], encode("at is")
    expected = 0.0
    for token in [*target, 0]:
        expected -= law(context)[token]
        context = [*context, token]
    assert nats(lm, [b"the c"], b"at is", "token") == pytest.approx(expected)


def inside_a_token(lm):
    """A prompt and its rest, cut where healing has something to heal, and the tokens of both."""
    encode, data = lm.canonical.source.encode, lm.canonical.vocabulary.data
    text = TEXT.decode()
    for cut in range(1, len(text)):
        before, whole = encode(text[:cut]), encode(text)
        place = len(before) - 1
        healed, last = whole[place], before[-1]
        if whole[:place] == before[:-1] and healed != last and data[healed].startswith(data[last]):
            return text[:cut].encode(), text[cut:].encode(), before, whole
    raise AssertionError("no such cut")


def test_nats_of_healing_by_hand(lm):
    """The last token goes; the first of what is said instead is among those that begin with its bytes."""
    law, data = lm.token_lm.law, lm.canonical.vocabulary.data
    prompt, rest, before, whole = inside_a_token(lm)
    context, expected = [0, *before[:-1]], 0.0
    allowed = [t for t, b in enumerate(data) if b.startswith(data[before[-1]])]
    expected += np.logaddexp.reduce(law(context)[allowed])
    for token in [*whole[len(before) - 1 :], 0]:
        expected -= law(context)[token]
        context = [*context, token]
    assert nats(lm, [prompt], rest, "healing") == pytest.approx(expected)
    assert nats(lm, [prompt], rest, "token") != pytest.approx(expected)


class OfCanonicalTexts:
    """A model that says only what the tokenizer could have said; id 0 starts a text, and ends it."""

    context = None

    def __init__(self, size):
        self.vocab_size, self._law = size, HistoryLM(size).law
        self.canonical = canonical_of(tokenizer_zoo.byte_level())

    def next_token_logprobs(self, contexts):
        found = []
        for context in contexts:
            text = list(context)[len(context) - list(context)[::-1].index(0) :]
            state = follow(self.canonical, text)
            allowed = np.zeros(self.vocab_size, bool)
            mask = self.canonical.mask(text[-1] if text else NOTHING, state)
            allowed[self.canonical.vocabulary.order[mask]] = True
            allowed[0] = self.canonical.ends(state)
            allowed |= not state  # after what is no text anything
            logprobs = np.where(allowed, self._law(context), -np.inf)
            found.append(logprobs - np.logaddexp.reduce(logprobs))
        return np.stack(found)


def test_closed_prompts_agree():
    """PSM: nothing is open, and all methods say the same of a middle and its end.

    The control: in SPM, cut inside a token, they do not.
    """
    lm = of(OfCanonicalTexts)
    prefix, rest, *_ = inside_a_token(lm)
    psm, spm = [prefix, END, b" friend", END], [b" friend", END, prefix]
    for middle in (rest, b"", b" 12"):
        exact = -float(lm.score([middle], [psm])[0].sum())
        for method in ("token", "healing"):
            assert nats(lm, psm, middle, method) == pytest.approx(exact)
    plain, healed = (nats(lm, spm, rest, method) for method in ("token", "healing"))
    exact = -float(lm.score([rest], [spm])[0].sum())
    assert plain != pytest.approx(healed)
    assert plain != pytest.approx(exact)


def test_exact_is_the_law_that_the_others_miss(lm):
    """Averaged over texts of the model itself and all cuts, exact needs the fewest bits."""
    texts = []
    for seed in range(6):
        (text,) = complete(lm, [b"the"], "token", max_bytes=[24], temperature=1.0, seeds=[seed])
        whole = b"the" + text[0].decode("utf-8", "ignore").encode()
        if lm.score([whole])[0].min() > -np.inf and len(whole) > 8:
            texts.append(whole)
    bits = dict.fromkeys(("token", "healing", "exact"), 0.0)
    for text in texts:
        for cut in range(1, len(text)):
            try:
                text[:cut].decode()
            except UnicodeDecodeError:
                continue
            bits["exact"] -= float(lm.score([text[cut:]], [text[:cut]])[0].sum())
            for method in ("token", "healing"):
                bits[method] += nats(lm, [text[:cut]], text[cut:], method)
    assert bits["exact"] < bits["healing"]
    assert bits["exact"] < bits["token"]


def test_completions_by_hand(lm):
    """Greedy, token by token, and healed."""
    data, law, encode = lm.canonical.vocabulary.data, lm.token_lm.law, lm.canonical.source.encode
    for method in ("token", "healing"):
        context, begin = [0, *encode("the c")], b""
        if method == "healing":
            context, begin = context[:-1], data[context[-1]]
        text, tokens = b"", 0
        while len(text) < 12:
            p = law(context).copy()
            if begin:
                p[[t for t, b in enumerate(data) if not b.startswith(begin)]] = -np.inf
            token = int(p.argmax())
            tokens += 1
            if token == 0:
                break
            context = [*context, token]
            text, begin = text + data[token][len(begin) :], b""
        ((found, count),) = complete(lm, [[b"the c"]], method, max_bytes=[12], seeds=[0])
        assert found == text[:12]
        assert count == tokens


@pytest.mark.parametrize("method", ["token", "healing"])
def test_a_cache_says_what_contexts_say(method):
    """A TreeLM with its cache, rows of different lengths, against the same model asked context by context."""
    trees = of(RecurrentLM)

    class Contexts:
        context, vocab_size = None, trees.token_lm.vocab_size
        next_token_logprobs = trees.token_lm.next_token_logprobs

    plain = convert(Contexts(), trees.canonical, bos=0, eos=0)
    prompts = [b"the c", b"", [b"it", END, b"dog's fr"]]
    for temperature in (0.0, 1.0):
        settings = {"max_bytes": [9, 4, 14], "temperature": temperature, "seeds": [3, 4, 5], "stop": [b"zz"]}
        assert complete(trees, prompts, method, **settings) == complete(plain, prompts, method, **settings)
    # Companions do not matter; seeds do.
    several = complete(plain, prompts, method, max_bytes=[9] * 3, temperature=1.0, seeds=[3, 4, 5])
    alone = complete(plain, prompts[2:], method, max_bytes=[9], temperature=1.0, seeds=[5])
    assert several[2:] == alone
    assert alone != complete(plain, prompts[2:], method, max_bytes=[9], temperature=1.0, seeds=[6])


def test_stops_and_limits(lm):
    ((text, _),) = complete(lm, [b"the c"], "token", max_bytes=[40], temperature=1.0, seeds=[1])
    stop = text[5:7]
    ((short, _),) = complete(lm, [b"the c"], "token", max_bytes=[40], temperature=1.0, seeds=[1], stop=[stop])
    assert short == text[: text.index(stop)]
    assert complete(lm, [b"the c"], "token", max_bytes=[0], seeds=[1]) == [(b"", 0)]


def test_dummy_spaces():
    """After a special token the first token's dummy space is no text, unless the text is to start without."""
    lm = of(HistoryLM, tokenizer=tokenizer_zoo.SMALL["sp-fallback"]())
    assert lm.canonical.source.dummy
    assert encoded(lm, []).lead == 1
    assert encoded(lm, [Text(b"", dummy_prefix=False)]).lead == 0
    assert encoded(lm, [b"the"]).lead == 0


def test_tokens_read(lm):
    """Boundary mode reads no more than byte mode, and at least the completion's tokens."""
    text = b"at isn't the dog"
    by_bytes, by_tokens = (evaluated(lm, [b"the c"], text, mode) for mode in ("byte", "boundary"))
    assert by_bytes >= len(lm.canonical.source.encode(text.decode()))
    assert by_tokens >= len(lm.canonical.source.encode(text.decode()))
    assert evaluated(lm, [b"the c"], "é".encode()[:1], "boundary") >= 1


def test_a_text_without_an_encoding():
    lm = of(HistoryLM, tokenizer=tokenizer_zoo.some_bytes())
    with pytest.raises(ValueError, match="no encoding of b'Q'"):
        encoded(lm, [b"Q"])
    assert nats(lm, [b"a"], b"Q", "token") == np.inf
