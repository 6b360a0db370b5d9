"""`bytelm fim-compare`: two methods of `bytelm fim` over the same items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bytelm.cli.common import OptionalFile, table, usage


@dataclass(frozen=True, kw_only=True)
class FimCompare:
    """The paired difference of two methods over the same items, the second less the first.

    With 95 % intervals, and McNemar's test of each item's first completion.
    """

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of a method, as `bytelm fim` wrote it."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Another one."""
    json: bool = False
    """Print JSON in place of a table."""
    plot: OptionalFile = None
    """Also write a picture (.png or .svg) of both methods and their difference."""

    def run(self) -> None:
        from bytelm.evals.fim import read_results
        from bytelm.evals.fim_summary import compared, summary

        with usage(OSError, ValueError):
            (settings_a, first), (settings_b, second) = read_results(self.first), read_results(self.second)
            found = compared(first, second)
        if self.plot is not None:
            names = [
                f"{s['method']}{', ' + s['order'] if s['order'] else ''}" for s in (settings_a, settings_b)
            ]
            _draw(Path(self.plot), names, [summary(first), summary(second)], found)
        print(json.dumps(found, indent=2) if self.json else _differences(found))


def _differences(found: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        (
            "benchmark",
            "measure",
            "items",
            "difference, points [95 %]",
            "only first",
            "only second",
            "McNemar p",
        )
    ]
    for benchmark, said in found.items():
        for name, test in (("pass@1", "passed"), ("exact", "exact"), ("similarity", None)):
            mean, low, high = (100 * x for x in said[name])
            counts = [str(x) for x in said[f"McNemar, {test}"][:2]] if test else ["-", "-"]
            p = f"{said[f'McNemar, {test}'][2]:.4f}" if test else "-"
            rows.append(
                (benchmark, name, f"{said['items']:,}", f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]", *counts, p)
            )
    return table(rows)


def _draw(
    path: Path, names: Sequence[str], summaries: Sequence[dict[str, Any]], found: dict[str, Any]
) -> None:
    """Rates of both methods with their intervals, a group a benchmark, and below the differences."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = [(b, m) for b in found for m in ("pass@1", "exact", "similarity")]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7.2, 5.6), sharex=True, layout="constrained")

    def points(axes, at, values, **style):
        mean = [100 * v[0] for v in values]
        spread = [[100 * (v[0] - v[1]) for v in values], [100 * (v[2] - v[0]) for v in values]]
        axes.errorbar(at, mean, yerr=spread, fmt="o", capsize=3, **style)

    for side, (name, said, color) in enumerate(zip(names, summaries, ("#0072B2", "#D55E00"), strict=True)):
        at = [i + 0.16 * (2 * side - 1) for i in range(len(places))]
        points(above, at, [said[b][m] for b, m in places], color=color, label=name)
    points(below, range(len(places)), [found[b][m] for b, m in places], color="black")
    above.set_ylabel("per cent, 95 % intervals")
    above.legend()
    below.axhline(0, color="grey", linewidth=0.8)
    below.set_ylabel(f"{names[1]} less {names[0]}, points")
    below.set_xticks(range(len(places)), [f"{m}\n{b}" for b, m in places], fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
