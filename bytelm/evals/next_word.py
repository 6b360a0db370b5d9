"""Next-word accuracy: how often a model, asked greedily, says the next word whole.

A word is right if each of its bytes is the most probable one given all before it, and the most probable
symbol after it is no letter or digit: greedy decoding from the text itself would have written this word and
stopped there. One teacher-forced pass tells, so any ByteLM can be asked.

Words are those of the boundary rule "paper" (Thawani et al., arXiv 2310.11628: punctuation isolated, split at
white space) without a cap. As there, the white space before a word is no part of it, and punctuation is no
word: what has neither a letter nor a digit is left out. A byte above 127 counts as a letter.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bytelm import words
from bytelm.lm import ByteLM
from bytelm.words.rules import MOST

CONTEXT = 1023  # with the symbol before the first byte, 1,024 symbols
BINS = (("0", 0, 0), ("1-10", 1, 10), ("11-45", 11, 45), ("> 45", 46, None))
"""Name, least and most occurrences in the training text."""

_AT_ONCE = 2**15  # bytes whose laws are held at a time: 67 MB
_CHUNK = 2**20  # bytes that are split into words at a time
_DRAWS = 2000  # of the bootstrap
_DOCUMENTS = 20  # as few as can stand for all that might have been drawn

_WORDLIKE = np.zeros(257, bool)  # letters and digits; END is none
_WORDLIKE[[*string.ascii_letters.encode(), *string.digits.encode(), *range(0x80, 0x100)]] = True
_SPACE = np.isin(np.arange(256), list(string.whitespace.encode()))
_SPACE_BYTE = re.compile(rb"\s")
_SPACES = bytes.maketrans(string.punctuation.encode(), b" " * len(string.punctuation))


# ---- words and how often they occur --------------------------------------------------------------------


def spans(text: bytes) -> np.ndarray:
    """Where the words of `text` are: int64 [N, 2], first byte and the one after the last."""
    data_T = np.frombuffer(text, np.uint8)
    if not len(data_T):
        return np.zeros((0, 2), np.int64)
    starts = np.flatnonzero(words.rule("paper", MOST).ended_before(text))
    stops = np.append(starts[1:], len(data_T))
    starts = starts + np.add.reduceat(_SPACE[data_T], starts, dtype=np.int64)  # white space comes first
    letters = np.append(0, np.cumsum(_WORDLIKE[data_T], dtype=np.int64))
    return np.stack([starts, stops], 1)[letters[stops] > letters[starts]]


def count_words(
    documents: Iterable[bytes],
    wanted: Collection[bytes],
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[bytes, int]:
    """How often each word of `wanted` occurs in the documents, exactly; one document at a time is in memory.

    A word runs between white space and punctuation, so that no rule need be run. `progress` is called with
    the bytes just read.
    """
    found = dict.fromkeys(wanted, 0)
    for document in documents:
        for chunk in _chunks(document):
            for word, count in Counter(chunk.translate(_SPACES).split()).items():
                if word in found:
                    found[word] += count
        progress(len(document))
    return found


def _chunks(document: bytes) -> Iterator[bytes]:
    """The document in parts of about `_CHUNK` bytes that cut no word."""
    start = 0
    while start < len(document):
        space = _SPACE_BYTE.search(document, start + _CHUNK)
        stop = space.start() if space else len(document)
        yield document[start:stop]
        start = stop


# ---- what the model says -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NextWord:
    """N words, in order, and whether the model said each."""

    correct_N: np.ndarray  # float64 in [0, 1]: right or not, or the share of several models that were right
    document_N: np.ndarray  # int64: the text that it is in
    count_N: np.ndarray  # int64: how often it occurs in the training text
    context: int  # bytes of context that a word has at most; the least is half of it, less the word
    too_long: int  # words longer than half the context, left out

    def figures(self, *, seed: int = 0) -> list[Share]:
        """The accuracy over all words and over those of each of `BINS`, with 95 % bootstrap intervals."""
        return [
            Share(name, *_share(self.correct_N, self.document_N, chosen, seed))
            for name, chosen in self._bins()
        ]

    def gain(self, other: NextWord, *, seed: int = 0) -> list[Share]:
        """Accuracy of this model less that of `other`, word by word, so that what both find easy cancels."""
        _check_same(self, other)
        difference = replace(self, correct_N=self.correct_N - other.correct_N)
        return difference.figures(seed=seed)

    def _bins(self) -> Iterator[tuple[str, np.ndarray]]:
        yield "all", np.ones(len(self.count_N), bool)
        for name, low, high in BINS:
            yield name, (self.count_N >= low) & (self.count_N <= (np.inf if high is None else high))


class Share(NamedTuple):
    """An accuracy, or a difference of two; None without words. `unit` is what the bootstrap draws."""

    name: str
    words: int
    value: float | None
    low: float | None
    high: float | None
    unit: str


def next_word(
    lm: ByteLM,
    texts: Sequence[bytes],
    counts: dict[bytes, int] | None = None,
    *,
    context: int = CONTEXT,
    progress: Callable[[int], object] = lambda _: None,
) -> NextWord:
    """Asks `lm` for every word of the texts.

    Every model gets the same bytes before a word: a text is read in windows of `context` bytes that overlap
    by half, each as if a text began there, and a word is asked for in the first window that holds it.

    Args:
      counts: of the words in the training text (`count_words`); words that it lacks count 0. None: all 0.
      progress: called with the bytes just read, windows' overlaps included.

    Raises ValueError where `lm.context` is less than the window and its first symbol, or the context below 2.
    """
    limit: int | None = getattr(lm, "context", None)
    if context < 2:
        raise ValueError(f"next words: a context of {context} bytes holds no words; give 2 or more")
    if limit is not None and limit < context + 1:
        raise ValueError(
            f"next words: the model sees {limit} symbols, fewer than {context} bytes and the one before; "
            f"compare with a context of at most {limit - 1}"
        )
    asked, windows, too_long = [], [], 0
    for i, text in enumerate(texts):
        spans_N2, first_N = _windowed(text, context)
        too_long += int((spans_N2[:, 0] < first_N).sum())
        fits_N = spans_N2[:, 0] >= first_N
        spans_N2, first_N = spans_N2[fits_N], first_N[fits_N]
        asked += [(i, counts.get(text[a:b], 0) if counts else 0) for a, b in spans_N2.tolist()]
        places = np.unique(first_N).tolist()
        windows += [(text[at : at + context], spans_N2[first_N == at] - at) for at in places]
    correct: list[np.ndarray] = [np.zeros(0, bool)]
    step = max(1, _AT_ONCE // context)
    for first in range(0, len(windows), step):
        some = windows[first : first + step]
        for law_TV, (text, spans_N2) in zip(lm.laws([text for text, _ in some]), some, strict=True):
            correct.append(_right(law_TV, np.frombuffer(text, np.uint8), spans_N2))
        progress(sum(len(text) for text, _ in some))
    document_N, count_N = np.array(asked, np.int64).reshape(-1, 2).T
    return NextWord(np.concatenate(correct).astype(np.float64), document_N, count_N, context, too_long)


def _windowed(text: bytes, context: int) -> tuple[np.ndarray, np.ndarray]:
    """The words of a text, and where the first window begins that reaches each one's end."""
    spans_N2, stride = spans(text), context - context // 2
    return spans_N2, np.maximum(-(-(spans_N2[:, 1] - context) // stride), 0) * stride


def _right(law_TV: np.ndarray, data_T: np.ndarray, spans_N2: np.ndarray) -> np.ndarray:
    """Whether each word is what the laws hold most probable; a law that is impossible throughout is wrong."""
    best_T = np.where(law_TV.max(1) > -np.inf, law_TV.argmax(1), -1)
    wrong = np.append(0, np.cumsum(best_T[:-1] != data_T))
    start_N, stop_N = spans_N2.T
    stopped_N = (best_T[stop_N] >= 0) & ~_WORDLIKE[best_T[stop_N]]
    return (wrong[stop_N] == wrong[start_N]) & stopped_N


def mean_of(found: Sequence[NextWord]) -> NextWord:
    """The mean over models, as over seeds of one: of each word, the share of models that said it."""
    for other in found[1:]:
        _check_same(found[0], other)
    return replace(found[0], correct_N=np.mean([x.correct_N for x in found], axis=0))


def _check_same(a: NextWord, b: NextWord) -> None:
    if a.context != b.context:
        raise ValueError(f"next words: one model had {a.context} bytes of context, the other {b.context}")
    if not (np.array_equal(a.document_N, b.document_N) and np.array_equal(a.count_N, b.count_N)):
        raise ValueError("next words: the two models were asked for different words")


# ---- the bootstrap -------------------------------------------------------------------------------------


def _share(
    value_N: np.ndarray, document_N: np.ndarray, chosen_N: np.ndarray, seed: int
) -> tuple[int, float | None, float | None, float | None, str]:
    """Words, mean, the 2.5 and 97.5 % points of the mean, and the unit of its bootstrap.

    Documents are drawn again, whole, because words of one are alike; where there are too few, words.
    """
    random = np.random.default_rng(seed)
    documents, which_N = np.unique(document_N, return_inverse=True)
    unit = "documents" if len(documents) >= _DOCUMENTS else "words"
    value, n = value_N[chosen_N], int(chosen_N.sum())
    if not n:
        return 0, None, None, None, unit
    if unit == "documents":
        D = len(documents)
        sums_D = np.bincount(which_N[chosen_N], value, D)
        sizes_D = np.bincount(which_N[chosen_N], minlength=D)
        draws_RD = random.multinomial(D, np.full(D, 1 / D), _DRAWS)
        size_R = draws_RD @ sizes_D
        means = (draws_RD @ sums_D)[size_R > 0] / size_R[size_R > 0]
    else:  # drawing n of n words again is drawing how often each value comes
        values, often = np.unique(value, return_counts=True)
        means = random.multinomial(n, often / n, _DRAWS) @ values / n
    low, high = np.quantile(means, (0.025, 0.975))
    return n, float(value.mean()), float(low), float(high), unit
