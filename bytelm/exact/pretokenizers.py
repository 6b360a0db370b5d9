"""The pre-tokenizers of the `tokenizers` library, as levels of cuts."""

from __future__ import annotations

from typing import Any, cast

from bytelm.exact import characters
from bytelm.exact.errors import Unsupported
from bytelm.exact.patterns import Chars, Repeat, literal, parse
from bytelm.exact.splits import Behaviour, Cut

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern inside `ByteLevel`."""

_BEHAVIOURS = {
    "Isolated": "isolated",
    "Contiguous": "contiguous",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
}


def cuts_of(described: dict[str, Any] | None) -> list[Cut]:
    """The levels of a pre-tokenizer, as `tokenizer.json` describes it; with none, no cut at all.

    Raises `Unsupported`, with the part printed, for what is not known.
    """
    cuts: list[Cut] = []
    mapped = _read(described, cuts, mapped=False) if described else False
    del mapped
    return cuts or [whole()]


def whole() -> Cut:
    """The level that makes no cut: the text is one piece."""
    return Cut(Repeat(Chars(characters.valid()), 1, -1))


def _read(part: dict[str, Any], cuts: list[Cut], mapped: bool) -> bool:
    """Adds the levels of one part; `mapped`: bytes have been mapped to the byte alphabet before it."""
    kind = part["type"]
    if kind == "Sequence":
        for inner in part["pretokenizers"]:
            mapped = _read(inner, cuts, mapped)
        return mapped
    if mapped:
        raise Unsupported("pre_tokenizer", part, "it comes after ByteLevel, where it would cut characters")
    if kind == "ByteLevel":
        if part["add_prefix_space"]:
            raise Unsupported("pre_tokenizer", part, "add_prefix_space: texts with and without it read alike")
        if part.get("use_regex", True):
            cuts.append(Cut(parse(GPT2)))
        return True
    if kind == "Split":
        ((syntax, pattern),) = part["pattern"].items()
        if not pattern:
            raise Unsupported("pre_tokenizer", part, "an empty pattern")
        tree = parse(pattern) if syntax == "Regex" else literal(pattern)
        cuts.append(Cut(tree, _behaviour(part, part["behavior"]), bool(part.get("invert"))))
    elif kind == "Digits":
        behaviour: Behaviour = "isolated" if part["individual_digits"] else "contiguous"
        cuts.append(Cut(Chars(characters.of_library("Digits")), behaviour))
    elif kind == "Punctuation":
        behaviour = _behaviour(part, part.get("behavior", "Isolated"))
        cuts.append(Cut(Chars(characters.of_library("Punctuation")), behaviour))
    elif kind == "Metaspace":
        if part.get("split", True):
            cuts.append(Cut(literal(part["replacement"]), "merged_with_next"))
    else:
        raise Unsupported("pre_tokenizer", part, "this kind is not supported")
    return False


def _behaviour(part: dict[str, Any], name: str) -> Behaviour:
    if name not in _BEHAVIOURS:
        raise Unsupported("pre_tokenizer", part, "text that is removed cannot be decoded")
    return cast(Behaviour, _BEHAVIOURS[name])
