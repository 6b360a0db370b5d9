"""Prompts of each family, token for token, and how they are cut to fit."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import hashed
from real_data import real

from bytelm.evals.prompts import FAMILIES, Fit, family_of, tightest
from bytelm.lm import SPECIALS, Special, Text, symbols_of

tokenizers = pytest.importorskip("tokenizers")
PREFIX, SUFFIX = "def f(x):\n    ré = ", "\n    return ré\n"


class NoLM:
    """What conversion wants of a model that is never asked."""

    context = None

    def __init__(self, size):
        self.vocab_size = size

    def next_token_logprobs(self, contexts):
        raise AssertionError("asked")


def converted(tokenizer, bos=None):
    from bytelm.exact import convert
    from bytelm.exact.canonical.canonical import canonical_of

    canonical = canonical_of(tokenizer)
    return convert(NoLM(canonical.vocabulary.size), canonical, bos=bos)


def ids(lm, family, order=None):
    from bytelm.exact.prompted import encoded

    return encoded(lm, family.prompt(PREFIX.encode(), SUFFIX.encode(), order)).tokens


def byte_level(*specials):
    """A small byte-level BPE with these special tokens after its bytes and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([PREFIX + SUFFIX] * 3, trainer)
    return made


def sentencepiece_like():
    """Code Llama's kind: a dummy space, byte pieces, and its special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for piece in ["▁", *sorted(set(PREFIX + SUFFIX) - {" "}), "re", "▁re", "de", "▁d", "▁de"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("r", "e"), ("▁", "re"), ("d", "e"), ("▁", "de")]
    merges.insert(2, ("▁", "d"))
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return made


def test_starcoder():
    """By the library itself, on the published string; each part alone, since special tokens close texts."""
    tokenizer = byte_level("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<file_sep>")
    lm, family = converted(tokenizer), family_of(tokenizer.get_vocab())
    assert family.name == "starcoder"
    psm = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"
    spm = f"<fim_prefix><fim_suffix>{SUFFIX}<fim_middle>{PREFIX}"
    assert ids(lm, family) == ids(lm, family, "psm") == tokenizer.encode(psm).ids
    assert ids(lm, family, "spm") == tokenizer.encode(spm).ids
    assert ids(lm, family, "spm") != ids(lm, family, "psm")
    round_trip(tokenizer, ids(lm, family), psm)


def test_deepseek():
    names = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
    tokenizer = byte_level("<bos>", *names)
    lm, family = converted(tokenizer, bos=0), family_of(tokenizer.get_vocab())
    assert family.name == "deepseek"
    psm = f"<bos>{names[0]}{PREFIX}{names[1]}{SUFFIX}{names[2]}"
    assert ids(lm, family) == tokenizer.encode(psm).ids
    with pytest.raises(ValueError, match="deepseek publishes no spm form of a prompt; use --order psm"):
        ids(lm, family, "spm")
    round_trip(tokenizer, ids(lm, family), psm)


def test_qwen_and_codegemma():
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    tokenizer = byte_level("<|endoftext|>", *names, "<|file_sep|>")
    lm, family = converted(tokenizer), family_of(tokenizer.get_vocab())
    assert family.name == "qwen"
    psm = f"{names[0]}{PREFIX}{names[1]}{SUFFIX}{names[2]}"
    assert ids(lm, family) == tokenizer.encode(psm).ids
    with pytest.raises(ValueError, match="qwen publishes no spm"):
        ids(lm, family, "spm")
    assert family_of([*names, "<|file_separator|>"]).name == "codegemma"


def test_code_llama():
    """As its reference lays it: prefix with the dummy space, suffix without; bos first."""
    tokenizer = sentencepiece_like()
    lm, family = converted(tokenizer, bos=1), family_of(tokenizer.get_vocab())
    assert family.name == "codellama"
    pre, suf, mid = (tokenizer.token_to_id(name) for name in ("▁<PRE>", "▁<SUF>", "▁<MID>"))
    plain = tokenizer.encode(PREFIX, add_special_tokens=False).ids
    # The reference encodes a mark before the suffix, and takes mark and dummy space away.
    marked = tokenizer.encode("d" + SUFFIX, add_special_tokens=False).ids
    assert tokenizer.id_to_token(marked[0]) in ("▁d", "▁")
    bare = marked[1:] if tokenizer.id_to_token(marked[0]) == "▁d" else marked[2:]
    assert ids(lm, family, "psm") == [1, pre, *plain, suf, *bare, mid]
    assert ids(lm, family, "spm") == [1, pre, suf, *bare, mid, *plain]
    # The control: with the dummy space the suffix reads otherwise.
    assert bare != tokenizer.encode(SUFFIX, add_special_tokens=False).ids


def test_codestral_has_one_form():
    family = family_of(["[PREFIX]", "[SUFFIX]", "[MIDDLE]"])
    made = family.prompt(b"p", b"s")
    assert made == [Special("[SUFFIX]"), Text(b"s", False), Special("[PREFIX]"), b"p"]
    with pytest.raises(ValueError, match="codestral publishes no psm"):
        family.prompt(b"p", b"s", "psm")
    assert FAMILIES["santacoder"].psm is not None
    with pytest.raises(ValueError, match="name its family with --format"):
        family_of(["<s>"])


def round_trip(tokenizer, tokens, text):
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["starcoder", "deepseek-coder-lossless", "cl100k"])
def test_real_tokenizers(name):
    """The library's own ids of the published string."""
    tokenizer = tokenizers.Tokenizer.from_file(str(real("tokenizers", name, "tokenizer.json")))
    family = family_of(tokenizer.get_vocab())
    lm = converted(tokenizer)
    for order in ("psm", "spm"):
        if getattr(family, order) is None:
            continue
        parts = family.prompt(PREFIX.encode(), SUFFIX.encode(), order)
        text = "".join(
            p.name if isinstance(p, Special) else (p.data if isinstance(p, Text) else p).decode()
            for p in parts
        )
        found = ids(lm, family, order)
        assert found == tokenizer.encode(text, add_special_tokens=False).ids
        round_trip(tokenizer, found, text)


# ---- byte models, and fitting --------------------------------------------------------------------------


def test_byte_models_read_starcoders_form():
    family = family_of(SPECIALS)
    prompt = family.prompt(b"p", b"s", "spm")
    assert symbols_of(prompt).tolist() == [257, 258, ord("s"), 259, ord("p")]
    assert np.isfinite(hashed().score([b"x"], [prompt])[0]).all()


def form(prefix, suffix):
    return FAMILIES["starcoder"].prompt(prefix, suffix)


def length(prompt):
    return len(symbols_of(prompt)) + 1


def test_what_fits_is_not_cut():
    fit = Fit(100, length)
    prompt, most, cut = fit.fitted(b"a" * 40, b"b" * 6, 50, form)
    assert not cut
    assert most == 50
    assert prompt == form(b"a" * 40, b"b" * 6)
    # A little longer than half: the completion gets what is left.
    prompt, most, cut = Fit(100, length).fitted(b"a" * 46, b"", 60, form)
    assert (most, cut) == (50, False)
    assert Fit(None, length).fitted(b"a" * 999, b"b", 7, form) == (form(b"a" * 999, b"b"), 7, False)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [(500, 500), (500, 3), (3, 500), (90, 90)])
def test_what_is_cut(share, sizes):
    """The prefix keeps its end, the suffix its start; sentinels stay; the room is used; shares hold."""
    prefix, suffix = bytes(i % 100 for i in range(sizes[0])), bytes(100 + i % 20 for i in range(sizes[1]))
    prompt, most, cut = Fit(120, length, share).fitted(prefix, suffix, 40, form)
    symbols = symbols_of(prompt).tolist()
    assert cut
    assert [s for s in symbols if s > 255] == [257, 258, 259]
    kept_prefix, kept_suffix = symbols[1 : symbols.index(258)], symbols[symbols.index(258) + 1 : -1]
    assert prefix.endswith(bytes(kept_prefix))
    assert suffix.startswith(bytes(kept_suffix))
    assert length(prompt) + most <= 120
    assert length(prompt) >= 120 - 40 - 1
    room = len(kept_prefix) + len(kept_suffix)
    if len(prefix) > room and len(suffix) > room:
        assert abs(len(kept_suffix) - share * room) <= 1


def test_characters_stay_whole():
    for context in range(40, 60):
        prompt, _, _ = Fit(context, length).fitted("é中😀".encode() * 9, "中é😀".encode() * 9, 9, form)
        for part in prompt:
            data = part.data if isinstance(part, Text) else part if isinstance(part, bytes) else b""
            data.decode()


def test_no_room():
    with pytest.raises(ValueError, match="no room for the special tokens"):
        Fit(6, length).fitted(b"a" * 9, b"b" * 9, 9, form)
    with pytest.raises(ValueError, match="share"):
        Fit(6, length, 1.5)


def test_an_ensemble_fits_its_tightest_member():
    """Of a byte model with 100 symbols and one whose tokens are two bytes, with 60."""
    fit = tightest([Fit(100, length), Fit(60, lambda p: length(p) // 2), Fit(None, length)])
    prompt, most, _ = fit.fitted(b"a" * 500, b"b" * 500, 20, form)
    assert length(prompt) + most <= 100
    assert length(prompt) // 2 + most <= 60
