"""`bytelm weights`: fits the weights of an ensemble on validation texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bytelm.cli.common import Files, Models, OptionalFile, UsageError, read, table, usage

if TYPE_CHECKING:
    import numpy as np

CURVE = 21  # weights of the first of two members that the plot shows


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Fit the weights of an ensemble of several models on texts that none of them was trained on."""

    models: Models
    """The folders of two models or more."""
    data: Files
    """Files, any bytes; each is one text."""
    rule: Literal["mean", "product"] = "mean"
    """A mixture (by expectation and maximisation) or a product (its exponents, by quasi-Newton steps)."""
    plot: OptionalFile = None
    """Also write a picture (.png or .svg) of bits per byte against the weight of the first of two models."""

    def run(self) -> None:
        import numpy as np

        from bytelm.evals.weights import fit_mean, fit_product, going_on, mean_nats
        from bytelm.lm import END
        from bytelm.load import load

        if len(self.models) < 2:
            raise UsageError(f"weights are for two MODELs or more, and {len(self.models)} is given")
        if self.plot is not None and len(self.models) != 2:
            raise UsageError(f"--plot shows one weight, so it takes two MODELs, not {len(self.models)}")
        if not self.data:
            raise UsageError("--data names no file")
        texts = [read(path) for path in self.data]
        count = sum(map(len, texts))
        if not count:
            raise UsageError("--data: the files are empty")
        with usage(FileNotFoundError, NotADirectoryError, ValueError):
            members = [load(path) for path in self.models]
        if self.rule == "mean":
            scores = [lm.score(texts) for lm in members]
            score_KN = np.stack([np.concatenate(of_member) for of_member in scores])
            on_KN = np.stack([going_on(of_member) for of_member in scores])
            cost = lambda w: mean_nats(score_KN, on_KN, np.asarray(w))  # noqa: E731
            with usage(ValueError):
                found = fit_mean(score_KN, on_KN)
        else:
            law_KNV = np.stack([np.concatenate(lm.laws(texts)) for lm in members])
            symbols_N = np.concatenate([np.frombuffer(t + b"\0", np.uint8).astype(int) for t in texts])
            symbols_N[np.cumsum([len(t) + 1 for t in texts]) - 1] = END
            cost = lambda w: _product_cost(law_KNV, symbols_N, np.asarray(w))  # noqa: E731
            with usage(ValueError):
                found = fit_product(law_KNV, symbols_N)
        print(_report(self.models, found, lambda w: cost(w) / count / math.log(2)))
        print("--weights " + " ".join(f"{w:.4f}" for w in found))
        if self.plot is not None:
            _draw(Path(self.plot), self.models, found, lambda w: cost(w) / count / math.log(2))


def _product_cost(law_KNV: np.ndarray, symbols_N: np.ndarray, weight_K: np.ndarray) -> float:
    import numpy as np

    with np.errstate(invalid="ignore"):
        sum_NV = np.where(weight_K[:, None, None] > 0, weight_K[:, None, None] * law_KNV, 0).sum(axis=0)
    return float((np.logaddexp.reduce(sum_NV, axis=1) - sum_NV[np.arange(len(symbols_N)), symbols_N]).sum())


def _report(models, found, bits) -> str:
    K = len(models)
    rows = [("", *(f"w{k + 1}" for k in range(K)), "bits per byte, ends of text in it")]
    alone = [[float(j == k) for j in range(K)] for k in range(K)]
    named = [*zip(models, alone, strict=True), ("all alike", [1 / K] * K), ("fitted", list(found))]
    rows += [(name, *(f"{w:.4f}" for w in weights), f"{bits(weights):.4f}") for name, weights in named]
    return table(rows)


def _draw(path: Path, models, found, bits) -> None:
    """Bits per byte along the line from the second member to the first, through the fitted weights' sum."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    share = [i / (CURVE - 1) for i in range(CURVE)]
    total = float(sum(found))
    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    axes.plot(share, [bits([total * s, total * (1 - s)]) for s in share], color="#0072B2")
    axes.plot(
        [found[0] / total], [bits(found)], "o", color="#D55E00", label=f"fitted: {found[0] / total:.3f}"
    )
    axes.set_xlabel(f"share of the weight that {Path(models[0]).name} has (the rest: {Path(models[1]).name})")
    axes.set_ylabel("bits per byte, ends of text in it")
    axes.set_title("An ensemble of two models by weight")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
