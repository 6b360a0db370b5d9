"""What a tokenizer is made of, whatever form it comes in.

`read` turns a `tokenizers.Tokenizer`, the path of a `tokenizer.json` or a `tiktoken.Encoding` into a
`Source`: pieces, merges, cuts and added tokens. What exact conversion does not support is refused here,
with the feature printed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from bytelm.exact.errors import Unsupported
from bytelm.exact.pretokenizers import cuts_of
from bytelm.exact.splits import Cut

SPACE_MARK = "▁"  # U+2581, a space in SentencePiece pieces


def byte_alphabet() -> dict[int, str]:
    """GPT-2's alphabet: the visible character that stands for each byte in byte-level pieces."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


@dataclass
class Source:
    """A tokenizer in one form.

    pieces: the piece of every id, None where there is none. byte_level: pieces are in the byte alphabet.
    space: the character that stands for a space in the pieces. dummy: a space is put before the text.
    spaceless: then no text that comes back starts with a space. fallback: byte -> id of `<0xHH>`.
    merges: (left, right, result, rank). ignore_merges: a pre-token that is a piece is that token, unmerged.
    added: groups of id -> content of the added tokens that are text, in the order they are looked for.
    special: name -> id. encode: the tokenizer itself, special strings read as text.
    """

    pieces: list[str | None]
    byte_level: bool
    merges: Iterable[tuple[int, int, int, int]]
    cuts: list[Cut]
    encode: Callable[[str], list[int]]
    space: str = " "
    dummy: bool = False
    spaceless: bool = False
    fallback: dict[int, int] = field(default_factory=dict)
    ignore_merges: bool = False
    added: list[dict[int, str]] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    family: str = ""
    pre_tokenizer: str = ""


def read(tokenizer: Any) -> Source:
    """The source of a tokenizer in any of its forms. Raises `Unsupported`."""
    if isinstance(tokenizer, str | Path):
        path = Path(tokenizer)
        if path.is_dir():
            path = path / "tokenizer.json"
        if path.suffix == ".model":
            raise Unsupported("file", path.name, "convert the SentencePiece model to a tokenizer.json first")
        return _from_library(path.read_text(encoding="utf-8"))
    if type(tokenizer).__module__.split(".")[0] == "tiktoken":
        return _from_tiktoken(tokenizer)
    if hasattr(tokenizer, "to_str") and hasattr(tokenizer, "encode_special_tokens"):
        return _from_library(tokenizer.to_str())
    raise TypeError(
        "a tokenizer must be a tokenizers.Tokenizer, the path of a tokenizer.json or a tiktoken.Encoding, "
        f"not {type(tokenizer).__name__}"
    )


# ---- tokenizers --------------------------------------------------------------------------------------


def _from_library(serialised: str) -> Source:
    described = json.loads(serialised)
    model = described["model"]
    _check_model(model)
    described |= _spelled_out(described)
    vocabulary = model["vocab"]
    added = described.get("added_tokens") or []
    size = 1 + max([*vocabulary.values(), *(a["id"] for a in added)], default=-1)
    pieces: list[str | None] = [None] * size
    for piece, token in vocabulary.items():
        pieces[token] = piece
    rank = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        rank[left, right] = number  # of a pair listed twice the last counts
    merges = [(vocabulary[a], vocabulary[b], vocabulary[a + b], number) for (a, b), number in rank.items()]
    byte_level, space, dummy, spaceless = _frame(described)
    fallback = {}
    if model.get("byte_fallback"):
        names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        fallback = {byte: vocabulary[name] for byte, name in names.items() if name in vocabulary}
    shown = json.dumps(described["pre_tokenizer"], ensure_ascii=False)
    return Source(
        pieces=pieces,
        byte_level=byte_level,
        merges=merges,
        cuts=cuts_of(described["pre_tokenizer"]),
        encode=_encoder(serialised),
        space=space,
        dummy=dummy,
        spaceless=spaceless,
        fallback=fallback,
        ignore_merges=bool(model.get("ignore_merges")),
        added=_added(added),
        special={a["content"]: a["id"] for a in added if a["special"]},
        family="byte-level BPE" if byte_level else "SentencePiece-like BPE",
        pre_tokenizer=shown,
    )


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


def _check_model(model: dict) -> None:
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind == "WordPiece":
        raise Unsupported("model", "WordPiece", "its decoding is not the concatenation of its tokens' bytes")
    if kind != "BPE":
        raise Unsupported("model", str(kind), "only BPE models are converted")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise Unsupported("model", {name: model[name]}, "encodings are random or pieces carry marks")


def _added(tokens: list[dict]) -> list[dict[int, str]]:
    """The added tokens that are text: those looked for before normalisation, then the others."""
    texts = [a for a in tokens if not a["special"]]
    for a in texts:
        if a["lstrip"] or a["rstrip"] or a["single_word"]:
            raise Unsupported("added_tokens", a, "it is text and strips spaces or wants to be a single word")
        for other in tokens:
            # The library skips special strings as a whole, so they could hide the token.
            if other["special"] and _overlap(other["content"], a["content"]):
                raise Unsupported("added_tokens", a, f"the special token {other['content']!r} overlaps it")
    groups = [{a["id"]: a["content"] for a in texts if a["normalized"] == n} for n in (False, True)]
    return [group for group in groups if group]


def _overlap(first: str, second: str) -> bool:
    """Whether `second` can start inside `first`, in some text."""
    shifted = (first[i:] for i in range(len(first)))
    return any(rest.startswith(second) or second.startswith(rest) for rest in shifted)


def _frame(described: dict) -> tuple[bool, str, bool, bool]:
    """Byte-level or not, the space mark, whether a space is put before the text, and `spaceless`."""
    pre_tokenizers = _flat(described["pre_tokenizer"], "pretokenizers")
    decoder = _flat(described["decoder"], "decoders")
    kinds = [d["type"] for d in decoder]
    normalizers = _flat(described["normalizer"], "normalizers")
    if any(p["type"] == "ByteLevel" for p in pre_tokenizers):
        if kinds != ["ByteLevel"]:
            raise Unsupported(
                "decoder", described["decoder"], "a byte-level tokenizer needs a ByteLevel decoder"
            )
        if normalizers:
            raise Unsupported("normalizer", described["normalizer"], "it changes texts")
        return True, " ", False, False
    space, dummy, spaceless = _spaces(normalizers, pre_tokenizers)
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
    return False, space, dummy, spaceless


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


# ---- tiktoken ----------------------------------------------------------------------------------------


def _from_tiktoken(encoding: Any) -> Source:
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    special: dict[str, int] = dict(encoding._special_tokens)
    alphabet = byte_alphabet()
    pieces: list[str | None] = [None] * (1 + max([*ranks.values(), *special.values()]))
    for data, token in ranks.items():
        pieces[token] = "".join(alphabet[byte] for byte in data)

    def merges() -> Iterable[tuple[int, int, int, int]]:
        for data, token in ranks.items():
            for i in range(1, len(data)):
                left, right = ranks.get(data[:i]), ranks.get(data[i:])
                if left is not None and right is not None:
                    yield left, right, token, token

    split = {"type": "Split", "pattern": {"Regex": _ruby(encoding._pat_str)}, "behavior": "Isolated"}
    return Source(
        pieces=pieces,
        byte_level=True,
        merges=merges(),
        cuts=cuts_of({**split, "invert": False}),
        encode=encoding.encode_ordinary,
        ignore_merges=True,
        special=special,
        family="byte-level BPE",
        pre_tokenizer=encoding._pat_str,
    )


def _ruby(pattern: str) -> str:
    r"""A pattern in Rust's syntax, spelled in Ruby's: `$` is the end of the text, `{1,3}+` possessive."""
    if re.search(r"\\\$|\[[^\]]*\$", pattern):
        raise Unsupported("pre_tokenizer", pattern, "a dollar sign that is a character")
    # At the end of an alternative possessive and greedy are the same.
    spelled = re.sub(r"(\{\d+(?:,\d*)?\})\+(?=\||\Z)", r"\1", pattern.replace("$", r"\z"))
    if re.search(r"\{\d+(?:,\d*)?\}\+", spelled):
        raise Unsupported("pre_tokenizer", pattern, "a possessive counted repeat inside an alternative")
    return spelled
