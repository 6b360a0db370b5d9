"""The blocks of commands in a Markdown page, and what the comment before each says of running it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["quick", "long", "never"]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)[^\n]*\n(?P<body>.*?)^ *(?P=ticks) *$",
                    re.MULTILINE | re.DOTALL)  # fmt: skip
_COMMENT = re.compile(
    r"<!--\s*run:\s*(?P<kind>\w+)\s*(?:,\s*(?P<why>[^\n]*?))?\s*(?:\n(?P<setup>.*?))?\s*-->\s*$", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """Commands, one a string, as they stand at a line of a page."""

    line: int
    kind: Kind
    commands: tuple[str, ...]
    setup: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        return any("$DATA" in command for command in (*self.setup, *self.commands))


def blocks(page: str) -> list[Block]:
    """All of them. Raises ValueError, with the line, for one whose comment is missing or wrong."""
    found, before = [], 0
    for match in _FENCE.finditer(page):
        if match["language"] in ("bash", "console"):
            line = page.count("\n", 0, match.start()) + 1
            kind, setup = _said(page[before : match.start()], line)
            body = "\n".join(row[len(match["indent"]) :] for row in match["body"].splitlines())
            commands = tuple(_commands(body, match["language"] == "console"))
            if not commands:
                raise ValueError(f"line {line}: no command in the block; in a console block they follow `$ `")
            found.append(Block(line, kind, commands, setup))
        before = match.end()
    return found


def _said(text: str, line: int) -> tuple[Kind, tuple[str, ...]]:
    """What the comment at the end of `text` says."""
    start = text.rfind("<!--")
    match = _COMMENT.match(text[start:]) if start >= 0 else None
    if match is None:
        raise ValueError(
            f"line {line}: no comment before the block; add <!-- run: {'|'.join(get_args(Kind))} -->"
        )
    kind = match["kind"]
    if kind not in get_args(Kind):
        raise ValueError(f"line {line}: run: {kind}; known are {', '.join(get_args(Kind))}")
    if kind == "never" and not match["why"]:
        raise ValueError(f"line {line}: run: never wants a reason: <!-- run: never, needs a GPU -->")
    setup = (match["setup"] or "").strip().splitlines()
    return kind, tuple(filter(None, map(str.strip, setup)))  # type: ignore[return-value]


def _commands(body: str, console: bool) -> list[str]:
    """The commands of a block: lines, with those that go on after a backslash. Comments alone are none."""
    found, open_ = [], False
    for row in body.splitlines():
        if open_:
            found[-1] += "\n" + row
        elif console and row.startswith("$ "):
            found.append(row[2:])
        elif not console and row.strip() and not row.lstrip().startswith("#"):
            found.append(row)
        else:
            continue
        open_ = row.endswith("\\")
    return found
