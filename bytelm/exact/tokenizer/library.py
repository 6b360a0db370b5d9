"""A tokenizer of the `tokenizers` library, or its `tokenizer.json`, as a `Source`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tokenizers

from bytelm.exact.cuts.guards import Guard, guards_of
from bytelm.exact.cuts.pretokenizers import byte_alphabet, cuts_of, kept_apart
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.source import SPACE_MARK, Source, Unigram

_UNKNOWN_PENALTY = 10.0  # of the library: an unknown character scores this much below the worst piece


def source(serialised: str) -> Source:
    """The source of a serialised tokenizer. `Unsupported`; ValueError for what is none."""
    try:
        described = json.loads(serialised)
        model = described["model"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"this is no tokenizer.json: {error or 'it has no model'}") from None
    kind = _kind(model)
    described |= _spelled_out(described)
    added = described.get("added_tokens") or []
    entries = dict(model["vocab"].items() if kind == "BPE" else zip(*_unigram_pieces(model), strict=True))
    size = 1 + max([*entries.values(), *(a["id"] for a in added)], default=-1)
    pieces: list[str | None] = [None] * size
    for piece, token in entries.items():
        pieces[token] = piece
    frame = _frame(described)
    fallback = {}
    if model.get("byte_fallback"):
        names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        fallback = {byte: entries[name] for byte, name in names.items() if name in entries}
    texts, raw = _added(
        added, entries if frame.space == SPACE_MARK else {}, described["normalizer"], frame.guards
    )
    if kind == "BPE":
        family = "byte-level BPE" if frame.byte_level else "SentencePiece-like BPE"
    else:
        family = "Unigram"
    return Source(
        pieces=pieces,
        byte_level=frame.byte_level,
        merges=_merges(model, entries, kept_apart(described["pre_tokenizer"])) if kind == "BPE" else [],
        cuts=cuts_of(described["pre_tokenizer"]),
        encode=_encoder(serialised),
        space=frame.space,
        dummy=frame.dummy,
        spaceless=frame.spaceless,
        fallback=fallback,
        ignore_merges=bool(model.get("ignore_merges")),
        unigram=_unigram(model, frame.space) if kind == "Unigram" else None,
        guards=frame.guards,
        added=texts,
        raw=raw,
        special={a["content"]: a["id"] for a in added if a["special"]},
        family=family,
        pre_tokenizer=json.dumps(described["pre_tokenizer"], ensure_ascii=False),
    )


def _merges(
    model: dict, vocabulary: dict[str, int], digits: np.ndarray | None
) -> list[tuple[int, int, int, int]]:
    rank = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        rank[left, right] = number  # of a pair listed twice the last counts
    if digits is not None:
        apart = {char: bool(digits[byte]) for byte, char in byte_alphabet().items()}
        rank = {
            pair: number for pair, number in rank.items() if len({apart.get(c) for c in "".join(pair)}) == 1
        }
    return [(vocabulary[a], vocabulary[b], vocabulary[a + b], number) for (a, b), number in rank.items()]


def _unigram_pieces(model: dict) -> tuple[list[str], list[int]]:
    pieces = [piece for piece, _ in model["vocab"]]
    # The last of equal pieces is the one that is found.
    return pieces, list(range(len(pieces)))


def _unigram(model: dict, space: str) -> Unigram:
    scores = [float(score) for _, score in model["vocab"]]
    # Where spaces have a mark, a piece with a space in it is never met.
    met = {
        i: piece
        for i, (piece, _) in enumerate(model["vocab"])
        if piece and (space == " " or " " not in piece)
    }
    matched = {i: piece.replace(space, " ") for i, piece in met.items()}
    return Unigram(matched, scores, min(scores, default=0.0) - _UNKNOWN_PENALTY)


def _spelled_out(described: dict) -> dict:
    """The parts around the model as the library reads them, with nothing left to defaults."""
    kept = ("normalizer", "pre_tokenizer", "decoder")
    empty = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    stub = empty | {name: described.get(name) for name in kept}
    read_back = json.loads(tokenizers.Tokenizer.from_str(json.dumps(stub)).to_str())
    return {name: read_back[name] for name in kept}


def _encoder(serialised: str) -> Callable[[str], list[int]]:
    @functools.cache
    def own() -> tokenizers.Tokenizer:  # made when it is first used: it takes a second for large ones
        made = tokenizers.Tokenizer.from_str(serialised)
        made.encode_special_tokens = True
        made.no_truncation()
        made.no_padding()
        return made

    return lambda text: own().encode(text, add_special_tokens=False).ids


def _kind(model: dict) -> str:
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind == "WordPiece":
        raise Unsupported("model", "WordPiece", "its decoding is not the concatenation of its tokens' bytes")
    if kind not in ("BPE", "Unigram"):
        raise Unsupported("model", str(kind), "only BPE and Unigram models are converted")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise Unsupported("model", {name: model[name]}, "encodings are random or pieces carry marks")
    return kind


def _added(
    tokens: list[dict], pieces: dict[str, int], normalizer: dict | None, guards: list[Guard]
) -> tuple[list[dict[int, str]], int]:
    """The added tokens that are text, and how many of the groups are looked for before normalisation.

    One that spells spaces with a mark (as in Gemma's vocabulary) and is a piece too is a piece alone: as an
    added token it is found only in texts with the mark itself, which come back with a space.
    """
    texts = [a for a in tokens if not a["special"]]
    texts = [a for a in texts if SPACE_MARK not in a["content"] or pieces.get(a["content"]) != a["id"]]
    for a in texts:
        if a["lstrip"] or a["rstrip"] or a["single_word"]:
            raise Unsupported("added_tokens", a, "it is text and strips spaces or wants to be a single word")
        for other in tokens:
            # The library skips special strings as a whole, so they could hide the token.
            if other["special"] and _overlap(other["content"], a["content"]):
                raise Unsupported("added_tokens", a, f"the special token {other['content']!r} overlaps it")
        if guards and a["normalized"] and _normalised(normalizer, a["content"]) != a["content"]:
            raise Unsupported("added_tokens", a, "it is text, and the normaliser changes it")
    raw, others = ({a["id"]: a["content"] for a in texts if a["normalized"] == n} for n in (False, True))
    return [group for group in (raw, others) if group], int(bool(raw))


def _normalised(normalizer: dict | None, text: str) -> str:
    stub = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str()) | {"normalizer": normalizer}
    made = tokenizers.Tokenizer.from_str(json.dumps(stub)).normalizer
    return made.normalize_str(text) if made else text


def _overlap(first: str, second: str) -> bool:
    """Whether `second` can start inside `first`, in some text."""
    shifted = (first[i:] for i in range(len(first)))
    return any(rest.startswith(second) or second.startswith(rest) for rest in shifted)


class _Frame(NamedTuple):
    """Fields of `Source`."""

    byte_level: bool
    space: str
    dummy: bool
    spaceless: bool
    guards: list[Guard]


def _frame(described: dict) -> _Frame:
    """What is around the model: how bytes, spaces and the start of the text are spelled; normalisers."""
    pre_tokenizers = _flat(described["pre_tokenizer"], "pretokenizers")
    decoder = _flat(described["decoder"], "decoders")
    kinds = [d["type"] for d in decoder]
    normalizers = _flat(described["normalizer"], "normalizers")
    if any(p["type"] == "ByteLevel" for p in pre_tokenizers):
        if kinds != ["ByteLevel"]:
            raise Unsupported(
                "decoder", described["decoder"], "a byte-level tokenizer needs a ByteLevel decoder"
            )
        guards, left, _ = guards_of(normalizers, dummy=False)
        if left:
            raise Unsupported("normalizer", left[0], "it changes texts")
        return _Frame(True, " ", False, False, guards)
    _, left, stripped = guards_of(normalizers, dummy=False)
    space, dummy, spaceless = _spaces(left, pre_tokenizers)
    guards, _, _ = guards_of(normalizers, dummy)
    spaceless = spaceless or (stripped and dummy)
    strips = any(d["type"] == "Strip" for d in decoder)
    for d in decoder:
        known = (
            d["type"] in ("ByteFallback", "Fuse")
            or (d["type"] == "Replace" and d["pattern"] == {"String": SPACE_MARK} and d["content"] == " ")
            or (d["type"] == "Strip" and (d["content"], d["start"], d["stop"]) == (" ", 1, 0))
            or (d["type"] == "Metaspace" and d["replacement"] == SPACE_MARK)
        )
        if not known:
            raise Unsupported("decoder", d, "its text is not the concatenation of the tokens' bytes")
        if d["type"] == "Metaspace":
            strips = d.get("prepend_scheme", "always") != "never"
    marked = any(d["type"] in ("Replace", "Metaspace") for d in decoder)
    if marked != (space == SPACE_MARK):
        raise Unsupported("decoder", described["decoder"], "it does not undo what is done to spaces")
    if dummy != strips:
        raise Unsupported("decoder", described["decoder"], "it does not undo what is put before the text")
    if strips and "Fuse" not in kinds and "Metaspace" not in kinds:
        raise Unsupported("decoder", described["decoder"], "it strips a space of every token")
    return _Frame(False, space, dummy, spaceless, guards)


def _spaces(normalizers: list[dict], pre_tokenizers: list[dict]) -> tuple[str, bool, bool]:
    space, dummy, spaceless = " ", False, False
    for n in normalizers:
        if n["type"] == "Prepend" and n["prepend"] in (" ", SPACE_MARK) and not dummy:
            if n["prepend"] == " " and space != " ":
                raise Unsupported("normalizer", n, "it puts a space where spaces have a mark already")
            dummy, mark = True, n["prepend"]
        elif n["type"] == "Replace" and n["pattern"] == {"String": " "} and n["content"] == SPACE_MARK:
            space = SPACE_MARK
        else:
            raise Unsupported("normalizer", n, "it changes texts")
    if dummy and mark != space:
        raise Unsupported("normalizer", normalizers, "the mark before the text is not the mark of a space")
    for p in pre_tokenizers:
        if p["type"] == "Metaspace":
            if p["replacement"] != SPACE_MARK or dummy or space != " ":
                raise Unsupported("pre_tokenizer", p, "a Metaspace of this kind, or after a normaliser")
            space = SPACE_MARK
            # Nothing is put before a text that starts with a space: it reads like the text without it.
            dummy = spaceless = p.get("prepend_scheme", "always") != "never"
    return space, dummy, spaceless


def _flat(part: dict | None, inside: str) -> list[dict]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [one for inner in part[inside] for one in _flat(inner, inside)]
    return [part]
