"""Tables in Markdown, and the kinds of plots that reports have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Okabe and Ito's colours, which tell apart for every kind of colour vision; markers and dashes say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The first column to the left, the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def interval(value: Sequence[float] | None, form: str = ".1f", scale: float = 1) -> str:
    """`mean [low, high]`."""
    if value is None:
        return "-"
    mean, low, high = (scale * x for x in value)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]" if low > float("-inf") else f"{mean:{form}}"


def figure(width: float, height: float, title: str) -> Any:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    drawn.suptitle(title)
    return drawn


def decades(axes: Any, powers: bool) -> None:
    """A logarithmic x axis with a label at 1, 2 and 5 of each decade: as powers of ten, or written out."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    every = (math.inf, math.inf)  # decades: label each tick, however many there are
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=every) if powers else "{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")


def dots(title: str, xlabel: str, groups: Mapping[str, Mapping[str, Any]], zero: float | None = None) -> Any:
    """A row a name, a marker a group: {group: {name: value or (value, low, high)}}."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    drawn = figure(7.2, 1.4 + 0.3 * len(names), title)
    axes = drawn.subplots()
    for i, (label, values) in enumerate(groups.items()):
        shift = 0.16 * (i - (len(groups) - 1) / 2)
        at = [len(names) - 1 - names.index(name) - shift for name in values]
        spans = [_span(value) for value in values.values()]
        spread = [[x - low for x, low, _ in spans], [high - x for x, _, high in spans]]
        axes.errorbar(
            [x for x, _, _ in spans], at, xerr=spread, fmt=MARKERS[i % 7], color=COLOURS[i % 7], capsize=3,
            ms=6, markeredgecolor="white", label=label,
        )  # fmt: skip
    if zero is not None:
        axes.axvline(zero, color="grey", lw=0.8)
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set(xlabel=xlabel, ylim=(-0.6, len(names) - 0.4))
    axes.grid(alpha=0.3)
    if len(groups) > 1:
        axes.legend(fontsize=8)
    return drawn


def _span(value: Any) -> tuple[float, float, float]:
    """A value with its interval, which is the value where it has none, or one without an end."""
    mean, low, high = value if isinstance(value, list | tuple) else (value, value, value)
    return (mean, low, high) if math.isfinite(low) and math.isfinite(high) else (mean, mean, mean)


def curves(title: str, xlabel: str, ylabel: str, panels: Mapping[str, Mapping[str, Sequence[Any]]]) -> Any:
    """A panel a name, a line a label: {panel: {label: [(x, y, low, high), ...]}}."""
    drawn = figure(3 * max(2, len(panels)), 3.8, title)
    for axes, (name, lines) in zip(
        drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for i, (label, points) in enumerate(lines.items()):
            x, y, low, high = (list(column) for column in zip(*points, strict=True))
            spread = [
                [a - b for a, b in zip(y, low, strict=True)],
                [b - a for a, b in zip(y, high, strict=True)],
            ]
            axes.errorbar(
                x, y, spread, marker=MARKERS[i % 7], color=COLOURS[i % 7], capsize=2, ms=5, label=label
            )
        axes.set(title=name, xlabel=xlabel)
        axes.grid(alpha=0.3)
    drawn.axes[0].set_ylabel(ylabel)
    drawn.axes[0].legend(fontsize=8)
    return drawn


def squares(title: str, rows: str, columns: str, values: Mapping[str, Mapping[str, float]]) -> Any:
    """A square for each pair, darker where the value is lower, with the value in it."""
    import numpy as np

    names, across = list(values), list(next(iter(values.values())))
    array = np.array([[values[row][column] for column in across] for row in names])
    drawn = figure(2 + 1.1 * len(across), 1.6 + 0.6 * len(names), title)
    axes = drawn.subplots()
    axes.imshow(array, cmap="cividis", aspect="auto", vmax=np.minimum(array, 16).max())
    middle = (min(array.max(), 16) + array.min()) / 2
    for i, j in np.ndindex(*array.shape):
        colour = "white" if array[i, j] < middle else "black"
        axes.text(j, i, f"{array[i, j]:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=columns, ylabel=rows)
    return drawn
