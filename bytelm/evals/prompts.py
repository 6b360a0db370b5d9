"""Fill-in-the-middle prompts, as models of each family were trained to read them, cut to fit a context.

Sources: StarCoder (arXiv 2305.06161) and SantaCoder (2301.03988), Code Llama (2308.12950), DeepSeek-Coder
(2401.14196), Qwen2.5-Coder (2409.12186), CodeGemma (2406.11409), Codestral's tokenizer (mistral-common).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bytelm.lm import Prompt, Segment, Special, Text

Order = Literal["psm", "spm"]

_P, _S, _PLAIN_S = "prefix", "suffix", "suffix without a dummy space"
_BARE = Text(b"", dummy_prefix=False)  # the middle starts without a dummy space


@dataclass(frozen=True)
class Family:
    """How one family writes a prompt: special tokens, by name, and in their midst prefix and suffix.

    psm, spm: the layouts, None where none is published. ends: special tokens that end the middle; the
    model's own end of text is one always. needs: the names that tell the family.
    """

    name: str
    needs: tuple[str, ...]
    ends: tuple[str, ...]
    psm: tuple[str, ...] | None
    spm: tuple[str, ...] | None = None

    def layout(self, order: Order | None) -> tuple[str, ...]:
        """ValueError for an order that the family has no published form of; None: the first it has."""
        layout = (self.psm or self.spm) if order is None else getattr(self, order)
        if layout is None:
            other = "psm" if order == "spm" else "spm"
            raise ValueError(f"{self.name} publishes no {order} form of a prompt; use --order {other}")
        return layout

    def prompt(self, prefix: bytes, suffix: bytes, order: Order | None = None) -> list[Segment]:
        """The segments of a prompt after which the model says the middle."""
        found: list[Segment] = []
        for part in self.layout(order):
            if part == _P:
                found.append(prefix)
            elif part in (_S, _PLAIN_S):
                found.append(Text(suffix, dummy_prefix=part == _S))
            else:
                found.append(Special(part))
        if isinstance(found[-1], Special):
            found.append(_BARE)
        return found


def _family(name: str, pre: str, suf: str, mid: str, ends: tuple[str, ...], spm: bool) -> Family:
    both = (pre, suf, _S, mid, _P) if spm else None
    return Family(name, (pre, suf, mid), ends, (pre, _P, suf, _S, mid), both)


_QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_FILE_ENDS = ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|im_end|>")
_LLAMA = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")

FAMILIES = {
    family.name: family
    for family in (
        _family(
            "starcoder",
            *("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
            ends=("<|endoftext|>", "<file_sep>", "<fim_pad>"),
            spm=True,
        ),
        _family(
            "santacoder",
            *("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
            ends=("<|endoftext|>", "<fim-pad>"),
            spm=False,
        ),
        Family(
            "codellama",
            _LLAMA[:3],
            _LLAMA[3:],
            psm=(_LLAMA[0], _P, _LLAMA[1], _PLAIN_S, _LLAMA[2]),
            spm=(_LLAMA[0], _LLAMA[1], _PLAIN_S, _LLAMA[2], _P),
        ),
        Family(
            "deepseek",
            ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            (),
            psm=("<｜fim▁begin｜>", _P, "<｜fim▁hole｜>", _S, "<｜fim▁end｜>"),
        ),
        # Before Qwen: CodeGemma's names are the same, and it alone has this one.
        Family(
            "codegemma",
            (*_QWEN, "<|file_separator|>"),
            ("<|file_separator|>", *_QWEN),
            psm=(_QWEN[0], _P, _QWEN[1], _S, _QWEN[2]),
        ),
        _family("qwen", *_QWEN, ends=("<|endoftext|>", *_QWEN, *_FILE_ENDS), spm=False),
        Family(
            "codestral", ("[SUFFIX]", "[PREFIX]"), (), psm=None, spm=("[SUFFIX]", _PLAIN_S, "[PREFIX]", _P)
        ),
    )
}
"""By name; `bytelm fim --format` takes these. Byte models of this project read `starcoder`."""


def family_of(names: Iterable[str]) -> Family:
    """The family whose special tokens are all among `names`. ValueError where there is none."""
    known = set(names)
    for family in FAMILIES.values():
        if known.issuperset(family.needs):
            return family
    raise ValueError(
        "it has no special tokens of a family that was trained to fill in the middle. `python train.py "
        "fim_bpe` makes a small model that was; where a model was and its tokens have other names, name its "
        f"family with --format: {', '.join(FAMILIES)}"
    )


# ---- fitting a context ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How a prompt is cut to fit.

    A prompt and the completion after it take at most `context` symbols, as `length` counts a prompt's; a byte
    of completion takes one at most. The completion may take half of the context and no more than it asks for;
    of the rest the suffix may have `share`, and what prefix or suffix leaves is the other's. The prefix keeps
    its end and the suffix its start, both whole characters; a special token is never cut.
    """

    context: int | None
    length: Callable[[Prompt], int]
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the suffix's share must lie in [0, 1], not {self.share}")

    def fitted(
        self, prefix: bytes, suffix: bytes, most: int, form: Callable[[bytes, bytes], Prompt]
    ) -> tuple[Prompt, int, bool]:
        """The prompt that `form` makes, how many bytes may follow, and whether something was cut off."""
        whole = form(prefix, suffix)
        if self.context is None:
            return whole, most, False
        room = self.context - min(most, self.context // 2)
        length = self.length(whole)
        if length <= room:
            return whole, min(most, self.context - length), False
        low, high = 0, len(prefix) + len(suffix)  # low bytes fit, high do not
        if self.length(form(b"", b"")) > room:
            raise ValueError(f"a context of {self.context} has no room for the special tokens of a prompt")
        while high - low > 1:
            tried = (low + high) // 2
            fits = self.length(form(*self.cut(prefix, suffix, tried))) <= room
            low, high = (tried, high) if fits else (low, tried)
        prompt = form(*self.cut(prefix, suffix, low))
        return prompt, min(most, self.context - self.length(prompt)), True

    def cut(self, prefix: bytes, suffix: bytes, size: int) -> tuple[bytes, bytes]:
        """Prefix and suffix of at most `size` bytes together, by the rule."""
        of_suffix = min(len(suffix), max(int(size * self.share), size - len(prefix)))
        of_prefix = min(len(prefix), size - of_suffix)
        start, stop = len(prefix) - of_prefix, of_suffix
        while start < len(prefix) and prefix[start] & 0xC0 == 0x80:
            start += 1
        while 0 < stop < len(suffix) and suffix[stop] & 0xC0 == 0x80:
            stop -= 1
        return prefix[start:], suffix[:stop]


def tightest(fits: Sequence[Fit]) -> Fit:
    """The rule that all of `fits` hold under, for an ensemble: lengths are relative to each context."""
    limited = [fit for fit in fits if fit.context is not None]
    if len(limited) <= 1:
        return (limited or list(fits))[0]
    least = min(fit.context for fit in limited if fit.context is not None)

    def length(prompt: Prompt) -> int:
        # The symbols that are left are the least of any member.
        left = min(fit.context - fit.length(prompt) for fit in limited if fit.context is not None)
        return least - left

    return Fit(least, length, fits[0].share)
