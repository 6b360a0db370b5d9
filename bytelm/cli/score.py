"""`bytelm score`: bits per byte of files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bytelm.cli.common import (
    Files,
    Models,
    OptionalFile,
    Together,
    UsageError,
    check_models,
    model,
    read,
    table,
    usage,
)

if TYPE_CHECKING:
    from bytelm.evals.bits import Bits


@dataclass(frozen=True, kw_only=True)
class Score:
    """Bits per byte of files, each and in all, over real bytes; what the ends cost is stated apart.

    With --noise the files are scored under noise and as they are: the table is of the noisy ones, and what
    the noise costs stands below it.
    """

    models: Models
    """The folder of a model; several are an ensemble."""
    data: Files
    """Files, any bytes; each is one text."""
    json: bool = False
    """Print JSON in place of a table."""
    html: OptionalFile = None
    """Also write a page that colours each character by its bits."""
    batch: int = 8
    """Files scored at a time."""
    noise: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KIND:RATE [KIND:RATE ...]", help_behavior_hint="")
    ] = ()
    """Noise of characters, in turn: drop, swap, insert, case or keyboard, at a rate in [0, 1]."""
    noise_seed: int = 0
    """Of what is random in the noise."""
    together: Annotated[Together, tyro.conf.OmitArgPrefixes] = field(default_factory=Together)

    def run(self) -> None:
        from tqdm import tqdm

        from bytelm.evals.bits import bits_per_byte
        from bytelm.evals.noise import noisy, parse

        check_models(self.models, self.together)
        if self.batch < 1:
            raise UsageError(f"--batch must be 1 or more, not {self.batch}")
        if not self.data:
            raise UsageError("--data names no file")
        with usage(ValueError):
            noises = [parse(text) for text in self.noise]
            clean = [read(path) for path in self.data]
            texts = [noisy(text, noises, seed=self.noise_seed, index=i) for i, text in enumerate(clean)]
        if self.html is not None:
            with usage(OSError):
                Path(self.html).touch()  # rather now than after an hour of scoring
        lm = model(self.models, self.together)
        # disable=None: no bar unless standard error is a terminal.
        parts = [texts, clean] if noises else [texts]
        size = sum(len(text) for part in parts for text in part)
        with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
            bits, *without = (bits_per_byte(lm, p, batch=self.batch, progress=bar.update) for p in parts)
        if self.html is not None:
            from bytelm.evals.html import page

            files = [(f, t, b.nats_T1) for f, t, b in zip(self.data, texts, bits.texts, strict=True)]
            title = f"Bits per byte under {', '.join(self.models)}"
            Path(self.html).write_text(page(files, title=title), encoding="utf-8")
        if self.json:
            record = _record(self.models, self.data, bits)
            for b in without:
                about = {"noise": self.noise, "noise_seed": self.noise_seed}
                record |= about | {"clean_bits_per_byte": _finite(b.bits_per_byte)}
            print(json.dumps(record, indent=2))
        else:
            print(_report(self.data, texts, bits))
            for b in without:
                print(_cost(self.noise, bits, b))


def _record(models: Sequence[str], files: Sequence[str], bits: Bits) -> dict[str, object]:
    """For JSON."""
    return {
        "models": list(models),
        "bytes": bits.bytes,
        "bits_per_byte": _finite(bits.bits_per_byte),
        "standard_error": bits.standard_error,
        "end_bits": _finite(bits.end_nats / math.log(2)),
        "context": bits.context,
        "overlap": bits.overlap if bits.context is not None else None,
        "files": [
            {
                "file": file,
                "bytes": text.bytes,
                "bits_per_byte": _finite(text.bits_per_byte),
                "end_bits": _finite(text.end_nats / math.log(2)),
                "impossible": text.impossible,
                "windowed": text.windowed,
            }
            for file, text in zip(files, bits.texts, strict=True)
        ],
    }


def _finite(value: float | None) -> float | None:
    """JSON has no inf: what is infinite, or not defined, is null."""
    return value if value is not None and math.isfinite(value) else None


def _cost(noise: Sequence[str], bits: Bits, clean: Bits) -> str:
    """What noise costs a byte, in words."""
    if bits.bits_per_byte is None or clean.bits_per_byte is None:
        return f"noise {', '.join(noise)}: no bytes to compare"
    costs = bits.bits_per_byte - clean.bits_per_byte
    return (
        f"noise {', '.join(noise)} costs {costs:.4f} bits per byte: {bits.bits_per_byte:.4f} of the noisy "
        f"bytes, {clean.bits_per_byte:.4f} of the {clean.bytes:,} clean ones"
    )


def _report(files: Sequence[str], texts: Sequence[bytes], bits: Bits) -> str:
    def row(name: str, count: int, per_byte: float | None, end_nats: float) -> tuple[str, ...]:
        figure = "-" if per_byte is None else f"{per_byte:.4f}"
        return name, f"{count:,}", figure, f"{end_nats / math.log(2):.2f}"

    scored = list(zip(files, bits.texts, strict=True))
    rows = [("file", "bytes", "bits per byte", "end of text, bits")]
    rows += [row(name, t.bytes, t.bits_per_byte, t.end_nats) for name, t in scored]  # type: ignore[misc]
    rows += [row("all", bits.bytes, bits.bits_per_byte, bits.end_nats)]  # type: ignore[list-item]
    notes = []
    if bits.standard_error is not None:
        notes.append(f"standard error of all, over files: {bits.standard_error:.4f} bits per byte")
    if windowed := [name for name, t in scored if t.windowed]:
        notes.append(
            f"longer than the context of {bits.context:,} symbols, so scored in windows that share "
            f"{bits.overlap:,}: {', '.join(windowed)}"
        )
    for (name, t), text in zip(scored, texts, strict=True):
        if t.impossible is not None:
            byte = text[t.impossible]
            notes.append(
                f"{name}: byte 0x{byte:02x} at offset {t.impossible:,} is impossible under this model"
            )
    return "\n".join([table(rows), *notes])
