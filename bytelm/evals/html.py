"""A web page that shows texts, each character coloured by how much it surprised a model.

One self-contained file: no scripts, no fonts, nothing from the network.
"""

from __future__ import annotations

import html
import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

BITS = (0.1, 0.5, 1, 2, 3, 4, 6, 8, 12)
"""Where one colour ends and the next begins, in bits a character."""

# ColorBrewer's YlOrBr: one hue whose lightness alone tells the order, so it survives every colour
# blindness and a grey print. Likely text fades into the page, which in the dark is the dark end.
LIGHT = [
    "#ffffff",
    "#fffbe0",
    "#fff3b8",
    "#fee391",
    "#fec44f",
    "#fe9929",
    "#ec7014",
    "#cc4c02",
    "#993404",
    "#662506",
]
DARK = [
    "#14171a",
    "#24190f",
    "#3a200c",
    "#552507",
    "#7a2c05",
    "#993404",
    "#cc4c02",
    "#ec7014",
    "#fec44f",
    "#fff7bc",
]

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f23; --faint: #57606a; --line: #d0d7de; }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font: 600 1rem ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1rem; }
p, td, th { color: var(--faint); } td, th { padding: 0 1.5rem 0 0; text-align: left; font-weight: normal; }
.n { text-align: right; font-variant-numeric: tabular-nums; color: var(--ink); }
.scale i { padding: .15rem .6rem; }
.text { font: 14px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin-top: 1rem; }
.text div { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 1.6em;
  content-visibility: auto; contain-intrinsic-size: auto 1.6em; }
i { font-style: normal; }
.x { outline: 1px dotted; outline-offset: -1px; font-size: .8em; }
.z { background: #fff; color: #000; outline: 2px solid #0072b2; outline-offset: -2px;
  text-decoration: underline wavy; }
.nl::before { content: "\\21b5"; opacity: .6; } .tab::before { content: "\\2192"; opacity: .6; }
"""


def page(files: Sequence[tuple[str, bytes, np.ndarray]], *, title: str) -> str:
    """The page for `files`: name, text, and -log p in nats `[len(text) + 1]`, the last of the text's end.

    A character of several bytes has one colour, for the sum of their bits; pointing at it shows each.
    Raises ValueError where texts and numbers differ in length.
    """
    for name, text, nats_T1 in files:
        if np.shape(nats_T1) != (len(text) + 1,):
            raise ValueError(f"{name}: {len(text)} bytes, but numbers of shape {np.shape(nats_T1)}")
    rows = "".join(_row(i, name, nats_T1) for i, (name, _, nats_T1) in enumerate(files))
    sections = "".join(_section(i, *file) for i, file in enumerate(files))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{_STYLE}{_colours()}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>Each character is coloured by its surprisal, -log2 p(character given all before it), in bits; point at
it for its offset, its bytes and their bits. Control characters, and bytes that are no UTF-8, are dotted.</p>
<p class="scale">bits: {_legend()}</p>
<table>
<tr><th>file</th><th class="n">bytes</th><th class="n">bits per byte</th>
<th class="n">end of text, bits</th></tr>
{rows}</table>
{sections}</body>
</html>
"""


def _colours() -> str:
    def rules(colours: list[str], ink: str, paper: str) -> str:
        inks = [ink if _contrast(ink, c) >= _contrast(paper, c) else paper for c in colours]
        pairs = enumerate(zip(colours, inks, strict=True))
        return "".join(f".c{k} {{ background: {c}; color: {over}; }}\n" for k, (c, over) in pairs)

    dark = ":root { --page: #14171a; --ink: #e6e6e6; --faint: #9aa4ad; --line: #333a41; }\n"
    dark += "a { color: #6cb6ff; }\n" + rules(DARK, "#ffffff", "#000000")
    return f"{rules(LIGHT, '#000000', '#ffffff')}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _legend() -> str:
    between = [f"{low:g}–{high:g}" for low, high in pairwise(BITS)]
    names = [f"&lt; {BITS[0]:g}", *between, f"≥ {BITS[-1]:g}"]
    spans = [f'<i class="c{k}">{name}</i>' for k, name in enumerate(names)]
    return "".join(spans) + '<i class="z">impossible</i>'


def _figures(nats_T1: np.ndarray) -> tuple[str, str, str]:
    """Bytes, bits per byte, bits of the end, as text."""
    count = len(nats_T1) - 1
    per_byte = f"{nats_T1[:-1].sum() / np.log(2) / count:.4f}" if count else "–"
    return f"{count:,}", per_byte, f"{nats_T1[-1] / np.log(2):.2f}"


def _row(index: int, name: str, nats_T1: np.ndarray) -> str:
    cells = "".join(f'<td class="n">{figure}</td>' for figure in _figures(nats_T1))
    return f'<tr><td><a href="#f{index}">{html.escape(name)}</a></td>{cells}</tr>\n'


def _section(index: int, name: str, text: bytes, nats_T1: np.ndarray) -> str:
    count, per_byte, end = _figures(nats_T1)
    # A block a line, so that the browser lays out only what it shows.
    return f"""<section id="f{index}">
<h2>{html.escape(name)}</h2>
<p>{per_byte} bits per byte over {count} bytes; the end of text took {end} bits more</p>
<div class="text"><div>{"".join(_spans(text, (nats_T1 / np.log(2)).tolist()))}</div></div>
</section>
"""


def _spans(text: bytes, bits_T1: list[float]) -> Iterator[str]:
    offset = 0
    for character in text.decode("utf-8", "surrogateescape"):
        raw = character.encode("utf-8", "surrogateescape")
        bits = bits_T1[offset : offset + len(raw)]
        kind, shown = _shown(character)
        total = sum(bits)
        colour = f"c{bisect_right(BITS, total)}" if total < math.inf else "z"
        each = f" = {' + '.join(f'{b:.2f}' for b in bits)}" if len(raw) > 1 else ""
        told = f"{offset}: {raw.hex(' ')}: {total:.2f} bits{each}"
        yield f'<i class="{colour}{kind}" title="{told}">{shown}</i>'
        if character == "\n":
            yield "</div>\n<div>"
        offset += len(raw)


def _shown(character: str) -> tuple[str, str]:
    """How a character is shown: classes beyond the colour's, and HTML."""
    code = ord(character)
    if character == "\n":
        return " nl", ""
    if character == "\t":
        return " tab", "\t"
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape's sign for a byte that is not UTF-8
        return " x", f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return " x", f"^{chr(code ^ 0x40)}"  # as terminals do: ^@ is NUL, ^[ escape, ^M carriage return
    category = unicodedata.category(character)
    if category in ("Mn", "Me"):
        return "", f"\u25cc{character}"  # a mark needs something to stand on
    if category[0] == "C" or category in ("Zl", "Zp") or (category == "Zs" and code != 0x20):
        # Invisible, or, as the marks that turn the direction of text, worse.
        return " x", f"U+{code:04X}"
    return "", html.escape(character)
