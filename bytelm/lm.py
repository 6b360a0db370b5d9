"""What every language model here has in common: symbols, prompts, and the `ByteLM` protocol.

Generation, scoring, ensembles and evaluations know this file and nothing else about a model, so a
trained byte model, a converted tokenized model and an ensemble of both are used alike. It imports
nothing of ours, and of the rest only numpy.

A *symbol* is a small integer: 0..255 are bytes, 256 is end of text, and a few sentinels follow. Every
law has `LAW` = 257 columns, the bytes and end of text: sentinels are inputs only. Probabilities are
natural logarithms, in nats, float64 unless a docstring says otherwise.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

END = 256  # end of text as an output; as an input, the symbol before a document's first byte
FIM_PREFIX = 257
FIM_SUFFIX = 258
FIM_MIDDLE = 259
MASK = 260
NUM_SYMBOLS = 261  # what a model of this project can read
LAW = 257  # what any model can emit: 256 bytes and END

SPECIALS: Mapping[str, int] = MappingProxyType(
    {"<fim_prefix>": FIM_PREFIX, "<fim_suffix>": FIM_SUFFIX, "<fim_middle>": FIM_MIDDLE, "<mask>": MASK}
)
"""The names, in a `Special`, of the sentinels that byte models of this project know."""


# ---- prompts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Special:
    """A special token of a prompt, by name, as in `Special("<fim_prefix>")`.

    It is atomic and closes the text before it: no token of a converted model may straddle it. The
    names are the model's own: `SPECIALS` for byte models, the tokenizer's for a converted one.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Special takes the name of a special token, a non-empty str, not {self.name!r}")


@dataclass(frozen=True)
class Text:
    """A piece of text in a prompt, with a say in how a tokenizer starts it.

    `dummy_prefix=False` asks that a SentencePiece-like tokenizer put no space before it, as suffixes
    in a fill-in-the-middle prompt want. Byte models add none and ignore it. `data` may be given as
    str; it is kept as UTF-8.
    """

    data: bytes
    dummy_prefix: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_bytes(self.data))


Segment: TypeAlias = bytes | str | Special | Text
Prompt: TypeAlias = bytes | str | Sequence[Segment]


def as_bytes(text: bytes | str) -> bytes:
    """`text` as bytes; a str becomes UTF-8.

    Raises TypeError for anything else, UnicodeEncodeError (a ValueError) for a str with lone surrogates.
    """
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode("utf-8")
    raise TypeError(f"a text must be bytes or str, not {type(text).__name__}: {text!r:.60}")


def segments(prompt: Prompt) -> list[Text | Special]:
    """Brings a prompt to one form: texts and specials in order, no two texts side by side.

    Only a special closes a text, so neighbouring texts are one text, started as the first of them
    asks. Empty texts that ask for nothing are dropped: `b""`, `[]` and `[b"", ""]` all give `[]`.
    """
    if isinstance(prompt, bytes | str):
        prompt = [prompt]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytearray | memoryview):
        raise TypeError(f"a prompt must be bytes, str or a list of segments, not {_kind(prompt)}")
    found: list[Text | Special] = []
    for index, segment in enumerate(prompt):
        if isinstance(segment, Special):
            found.append(segment)
            continue
        if isinstance(segment, bytes | str):
            segment = Text(as_bytes(segment))
        elif not isinstance(segment, Text):
            raise TypeError(
                f"segment {index} of a prompt must be bytes, str, Special or Text, not {_kind(segment)}"
            )
        if found and isinstance(before := found[-1], Text):
            # What an empty text says of its start holds for the text that follows it.
            dummy = before.dummy_prefix and (bool(before.data) or segment.dummy_prefix)
            found[-1] = Text(before.data + segment.data, dummy)
        elif segment.data or not segment.dummy_prefix:
            found.append(segment)
    return found


def symbols_of(prompt: Prompt) -> np.ndarray:
    """The symbols `[S]` uint16 of a prompt, for byte models of this project; without a leading END.

    Raises ValueError for a special token that is not in `SPECIALS`.
    """
    parts: list[np.ndarray] = [np.empty(0, np.uint16)]
    for segment in segments(prompt):
        if isinstance(segment, Text):
            parts.append(np.frombuffer(segment.data, np.uint8).astype(np.uint16))
        elif segment.name in SPECIALS:
            parts.append(np.array([SPECIALS[segment.name]], np.uint16))
        else:
            known = ", ".join(SPECIALS)
            raise ValueError(f"a byte model has no special token {segment.name!r}; it knows {known}")
    return np.concatenate(parts)


def _kind(value: object) -> str:
    return f"{type(value).__name__} ({value!r:.60})"


# ---- what a model offers ---------------------------------------------------------------------------


@runtime_checkable
class ByteLM(Protocol):
    """A language model over bytes.

    A *state* is a ragged batch of B rows, each a prompt and the bytes pushed since. Its type is the
    model's own business. Impossible bytes are not errors: they score -inf, as does all that follows
    them in `score`, and after one has been pushed that row of `next_logprobs` is -inf. Nothing is NaN.

    A model may also have the attributes `context: int | None`, the most symbols it sees at once, and
    `overlap: int`: a text longer than `context` is scored in windows of `context` symbols that share
    `overlap` with the window before. Evaluations print both where they mattered.
    """

    def start(self, prompts: Sequence[Prompt]) -> Any:
        """A state of B = len(prompts) rows."""

    def next_logprobs(self, state: Any) -> np.ndarray:
        """Log probabilities `[B, 257]` of the next symbol: 0..255 bytes, 256 end of text. State kept."""

    def push(self, state: Any, symbols: Sequence[int | None]) -> Any:
        """Appends to each row a byte 0..255, or nothing where None. The old state is consumed."""

    def fork(self, state: Any) -> Any:
        """An independent copy, for where both branches are wanted."""

    def score(
        self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None
    ) -> list[np.ndarray]:
        """For each text float64 `[len(text) + 1]`: log p(byte | prompt, bytes before); last, end of text."""

    def laws(self, texts: Sequence[bytes | str], prompts: Sequence[Prompt] | None = None) -> list[np.ndarray]:
        """For each text `[len(text) + 1, 257]`: the whole law before each byte, and at the end."""


@dataclass(frozen=True)
class Sampling:
    """How the next symbol is drawn; `bytelm.generate.generate` says what each setting does.

    The first five change the law of a byte and belong to mode "byte"; `token_temperature` changes the
    law of a token and belongs to mode "boundary". They are different distributions, so neither stands
    for the other. Raises ValueError for values that make no sense.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    utf8: bool = False
    mode: Literal["byte", "boundary"] = "byte"
    token_temperature: float | None = None  # None: 1

    def __post_init__(self) -> None:
        for name in ("temperature", "token_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, not {value}")
        if self.top_k is not None and operator.index(self.top_k) < 1:
            raise ValueError(f"top_k must be 1 or more, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must lie in [0, 1], not {self.min_p}")
        if self.mode not in ("byte", "boundary"):
            raise ValueError(f"mode must be 'byte' or 'boundary', not {self.mode!r}")
        if self.mode == "byte" and self.token_temperature is not None:
            raise ValueError("token_temperature needs mode 'boundary'; mode 'byte' takes temperature")
        if self.mode == "boundary":
            of_bytes = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "utf8": False}
            given = [name for name, default in of_bytes.items() if getattr(self, name) != default]
            if given:
                raise ValueError(
                    f"{', '.join(given)}: for the law of a byte, and mode 'boundary' draws tokens; "
                    "use token_temperature, or mode 'byte'"
                )


@runtime_checkable
class FastGenerate(Protocol):
    """An optional extra of a ByteLM: generating without leaving the device, or token by token."""

    def continue_(
        self, state: Any, *, max_bytes: int, sampling: Sampling, stop: tuple[bytes, ...], seed: int
    ) -> list[bytes] | None:
        """The completion of each row, as `generate` defines it: same law, stop string excluded.

        A row's completion is a function of its prompt, `seed` and its index. Consumes the state; or
        returns None and leaves the state alone where it does not do this `sampling`.
        """


@runtime_checkable
class TokenLM(Protocol):
    """The least a tokenized model must offer to be converted."""

    vocab_size: int

    def next_token_logprobs(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """Log probabilities `[N, V]` of the token after each of N contexts."""


@runtime_checkable
class TreeLM(TokenLM, Protocol):
    """What our tokenized models offer: trees of tokens over a cached trunk.

    All methods are pure in `params` and may be compiled; logits are unnormalised float32, so that the
    caller normalises over all tokens or over those that it allows. Sizes are static: the caller pads them
    to few. A cache holds a *trunk*, the tokens no longer in doubt, and *nodes* at numbered places, which
    the caller hands out. All but `widened` may consume the cache that they are given. The caller also makes
    room, with `widened`, before what it adds to a trunk: what does not fit may be an error or be dropped.

    A model may also have ``reordered(columns_P)``: a `TreeLM` whose logits are these columns of its own, in
    their order, and the function that makes its parameters of this one's. Conversion is faster with it.
    """

    context: int | None  # most tokens on a path
    params: Any  # the parameters that the model was made with

    def open(self, params: Any, tokens_BS: Any, length_B: Any, *, slots: int, nodes: int) -> tuple[Any, Any]:
        """A cache whose trunk is ``tokens_BS[b, :length_B[b]]``, and the logits `[B, V]` after it.

        There is room for `slots` tokens of trunk and `nodes` node places. A length of 0 is allowed; that
        row's logits are without meaning.
        """

    def grow(self, params: Any, cache: Any, tokens_BN: Any, parents_BN: Any, at_BN: Any) -> tuple[Any, Any]:
        """N new nodes a row: logits `[B, N, V]` after each, and the cache with them.

        `at_BN` is the place that each is written to; places of dead nodes may be used again.
        `parents_BN` is the place of the parent, -1 for the trunk's end; parents come before children. A
        token of -1 is no node: nothing is written, its logits are without meaning. A node sees the trunk,
        its ancestors and itself, and its position is the trunk's length plus its depth in the tree.
        """

    def extend(self, params: Any, cache: Any, tokens_BN: Any, count_B: Any) -> tuple[Any, Any]:
        """Appends ``tokens_BN[b, :count_B[b]]`` to the trunk: logits `[B, N, V]`, and the cache.

        All nodes are dead afterwards, in rows whose count is not 0.
        """

    def commit(self, cache: Any, path_BM: Any) -> Any:
        """Moves a path of nodes into the trunk: from a child of its end downwards, -1 padded at the end.

        Nodes that descend from the path's last stay where they are; all others are dead.
        """

    def widened(self, cache: Any, *, slots: int, nodes: int) -> Any:
        """A cache with room for at least as much trunk and as many node places, that holds the same."""
