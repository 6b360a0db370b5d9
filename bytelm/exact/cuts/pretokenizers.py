"""The pre-tokenizers of the `tokenizers` library, as levels of cuts."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from bytelm.exact.cuts import characters
from bytelm.exact.cuts.patterns import Chars, Concat, Either, Node, Repeat, literal, parse
from bytelm.exact.cuts.splits import Behaviour, Cut
from bytelm.exact.errors import Unsupported

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
    if described:
        _read(described, cuts, mapped=False)
    return cuts or [whole()]


def kept_apart(described: dict[str, Any] | None) -> np.ndarray | None:
    """Which bytes are digits to a `Digits` that comes after `ByteLevel`, as in Falcon; None without one.

    It sees the byte alphabet and cuts between two neighbouring bytes of which one is a digit, even inside a
    character (0xBC is one, so "ü" is cut). Such a cut depends on these two bytes alone, so the merges over
    such a border never happen and all others happen as if it were not there: the pre-tokenizer without
    this part and without these merges gives the same encodings. Booleans `[256]`.
    """
    parts = described["pretokenizers"] if described and described["type"] == "Sequence" else []
    kinds = [part["type"] for part in parts]
    if "ByteLevel" not in kinds or "Digits" not in kinds[kinds.index("ByteLevel") :]:
        return None
    digits = characters.of_library("Digits")
    return np.array([digits[characters.slot(ord(char))] for _, char in sorted(byte_alphabet().items())])


def byte_alphabet() -> dict[int, str]:
    """GPT-2's alphabet: the visible character that stands for each byte in byte-level pieces."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


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
        _read_mapped(part, cuts)
        return True
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


def _read_mapped(part: dict[str, Any], cuts: list[Cut]) -> None:
    """A part that sees the byte alphabet: runs of digits, and cuts at ASCII digits."""
    if part["type"] == "Digits" and not part["individual_digits"]:
        return  # `kept_apart`
    if part["type"] == "Split" and part["behavior"] == "Isolated" and not part.get("invert"):
        ((syntax, pattern),) = part["pattern"].items()
        tree = parse(pattern) if syntax == "Regex" and pattern else None
        # Runs of ASCII digits are in one piece whether bytes were cut before or not.
        if tree is not None and _only(tree, characters.of_codes(ord("0"), ord("9"))):
            cuts.append(Cut(tree))
            return
    raise Unsupported("pre_tokenizer", part, "it comes after ByteLevel, where it would cut characters")


def _only(node: Node, members: np.ndarray) -> bool:
    """Whether the node looks at these characters only."""
    if isinstance(node, Chars):
        return not (node.members & ~members).any()
    if isinstance(node, Concat | Either):
        return all(_only(part, members) for part in node.parts)
    return isinstance(node, Repeat) and _only(node.body, members)


def _behaviour(part: dict[str, Any], name: str) -> Behaviour:
    if name not in _BEHAVIOURS:
        raise Unsupported("pre_tokenizer", part, "text that is removed cannot be decoded")
    return cast(Behaviour, _BEHAVIOURS[name])
