"""Noise at the level of characters: what typing and transmission do to texts, at any rate and repeatably.

The unit is the character (a code point of UTF-8). Bytes that are no UTF-8 pass through as they are, in
order, and no character is ever cut, so valid text stays valid. A draw depends on the seed, the text's number,
the noise's place in the chain and the character's place in the text, and on nothing else: batches and their
order do not matter, and the characters that drop at 5 % are among those that drop at 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bytelm.lm import as_bytes

Uniform = Callable[[int], np.ndarray]  # n -> n numbers in [0, 1), anew at each call


@dataclass(frozen=True)
class Noise:
    """One kind of noise, of `KINDS`, and how many it touches of the characters that it can: a share."""

    kind: str
    rate: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no noise {self.kind!r}; there are {', '.join(KINDS)}")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"noise {self.kind}: the rate is a share in [0, 1], not {self.rate}")


def parse(text: str) -> Noise:
    """``"drop:0.1"``. Raises ValueError for anything else."""
    kind, _, rate = text.partition(":")
    try:
        number = float(rate)
    except ValueError:
        raise ValueError(f"noise is KIND:RATE, such as drop:0.1, not {text!r}") from None
    return Noise(kind, number)


def noisy(text: bytes | str, noises: Sequence[Noise], *, seed: int = 0, index: int = 0) -> bytes:
    """`text` under each of `noises` in turn; `index` is the text's number in its collection.

    Raises ValueError for a negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"noise: seed and index must not be negative, not {seed} and {index}")
    # A byte that is no part of a character becomes a lone surrogate, U+DC80 to U+DCFF, and that byte again.
    code_T = _codes(as_bytes(text).decode("utf-8", "surrogateescape"))
    for place, noise in enumerate(noises):
        # Of numpy's generators only the raw bits are the same in every version.
        bits = np.random.Philox(np.random.SeedSequence([seed, index, place]))

        def uniform(n: int, bits: np.random.Philox = bits) -> np.ndarray:
            return (bits.random_raw(n) >> np.uint64(11)) * 2.0**-53

        code_T = KINDS[noise.kind](code_T, noise.rate, uniform)
    decoded = code_T.tobytes().decode("utf-32-le", "surrogatepass")
    return decoded.encode("utf-8", "surrogateescape")


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _whole(code_T: np.ndarray) -> np.ndarray:
    """Which codes are characters, not stray bytes."""
    return (code_T < 0xDC80) | (code_T > 0xDCFF)


# ---- the kinds: (codes [T], rate, uniform) -> codes ----------------------------------------------------


def _drop(code_T: np.ndarray, rate: float, uniform: Uniform) -> np.ndarray:
    """A character is left out."""
    return code_T[~(_whole(code_T) & (uniform(len(code_T)) < rate))]


def _swap(code_T: np.ndarray, rate: float, uniform: Uniform) -> np.ndarray:
    """A character and the next change places, none twice; the rate is the share of characters that move."""
    T = len(code_T)
    if T < 2:
        return code_T
    whole_T = _whole(code_T)
    # From left to right, with probability p, a swap; after one, its second character is passed over. Of the
    # characters 2 p / (1 + p) move, which is the rate.
    chosen_T = np.append(whole_T[:-1] & whole_T[1:], False) & (uniform(T) < rate / (2.0 - rate))
    place_T = np.arange(T)
    before_T = np.maximum.accumulate(np.where(chosen_T, -1, place_T))  # the last that is not chosen
    first_T = chosen_T & ((place_T - before_T) % 2 == 1)
    order_T = place_T + first_T
    order_T[1:] -= first_T[:-1]
    return code_T[order_T]


def _insert(code_T: np.ndarray, rate: float, uniform: Uniform) -> np.ndarray:
    """Before a character comes another, drawn from those of the text, so of its scripts."""
    whole_T = _whole(code_T)
    hit_T, drawn_T = whole_T & (uniform(len(code_T)) < rate), uniform(len(code_T))
    own_C = code_T[whole_T]
    at_N = np.flatnonzero(hit_T)
    return np.insert(code_T, at_N, own_C[(drawn_T[at_N] * len(own_C)).astype(int)])


def _case(code_T: np.ndarray, rate: float, uniform: Uniform) -> np.ndarray:
    """A letter is written in its other case; one without, or whose other case is several letters, stays."""
    return _replaced(code_T, rate, uniform, _other_case)


def _keyboard(code_T: np.ndarray, rate: float, uniform: Uniform) -> np.ndarray:
    """A letter of a-z, A-Z becomes one whose key touches its own on a QWERTY keyboard; others stay."""
    return _replaced(code_T, rate, uniform, lambda letter: NEIGHBOURS.get(letter, ""))


KINDS: Mapping[str, Callable[[np.ndarray, float, Uniform], np.ndarray]] = MappingProxyType(
    {"drop": _drop, "swap": _swap, "insert": _insert, "case": _case, "keyboard": _keyboard}
)


def _replaced(code_T: np.ndarray, rate: float, uniform: Uniform, choices: Callable[[str], str]) -> np.ndarray:
    """With probability `rate`, each character that has `choices` becomes one of them."""
    known_K, kind_T = np.unique(code_T, return_inverse=True)
    hit_T, drawn_T = uniform(len(code_T)) < rate, uniform(len(code_T))
    out_T = code_T.copy()
    for k, code in enumerate(known_K.tolist()):
        if codes := _codes(choices(chr(code))).tolist():
            at_N = np.flatnonzero(hit_T & (kind_T == k))
            out_T[at_N] = np.array(codes, np.uint32)[(drawn_T[at_N] * len(codes)).astype(int)]
    return out_T


def _other_case(letter: str) -> str:
    other = letter.swapcase()
    return other if len(other) == 1 and other != letter else ""


def _neighbours() -> dict[str, str]:
    """The letters whose keys touch a letter's; each row of keys is shifted against the one above."""
    rows = ((0.0, "qwertyuiop"), (0.25, "asdfghjkl"), (0.75, "zxcvbnm"))
    place = {key: (x + shift, y) for y, (shift, row) in enumerate(rows) for x, key in enumerate(row)}
    found = {
        a: "".join(b for b in place if a != b and np.hypot(ax - place[b][0], ay - place[b][1]) < 1.3)
        for a, (ax, ay) in place.items()
    }
    return found | {a.upper(): near.upper() for a, near in found.items()}


NEIGHBOURS = MappingProxyType(_neighbours())
