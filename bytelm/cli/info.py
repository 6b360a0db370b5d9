"""`bytelm info`: what is in a model folder."""

from __future__ import annotations

from dataclasses import dataclass

from bytelm.cli.common import Models, check_models, usage


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a model is: its parameters, memory, family, and what it can read. Nothing is loaded."""

    models: Models
    """The folder of a model; of several, an ensemble, also what they need together."""

    def run(self) -> None:
        from bytelm.load import describe

        check_models(self.models)
        with usage(FileNotFoundError, NotADirectoryError, ValueError):
            described = [describe(path) for path in self.models]
        if len(described) > 1:
            total = sum(facts["parameters"] for facts in described)
            whole = {"parameters": total, "memory, float32": f"{total * 4 / 1e6:,.1f} MB"}
            for path, facts in zip(self.models, described, strict=True):
                _print(path, facts)
            _print(f"together: an ensemble of {len(described)}", whole)
        else:
            _print(None, described[0])


def _print(title: str | None, facts: dict[str, object]) -> None:
    if title is not None:
        print(title)
    for name, value in facts.items():
        shown = f"{value:,}" if type(value) is int else str(value)
        print(f"{'' if title is None else '  '}{name:<{max(map(len, facts))}}  {shown}")
