"""`bytelm generate`: completes a prompt."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from bytelm.cli.common import (
    Models,
    OptionalFile,
    OptionalText,
    Together,
    UsageError,
    check_models,
    model,
    read,
    usage,
)


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Complete a prompt; the completion alone, as raw bytes, is the output (and a newline on a terminal)."""

    models: Models
    """The folder of a model; several are an ensemble."""
    prompt: OptionalText = None
    """The prompt, taken as it is."""
    prompt_file: OptionalFile = None
    """A file that holds the prompt, any bytes; - is standard input."""
    max_bytes: int = 200
    """The most bytes to generate."""
    temperature: float = 1.0
    """Of the law of a byte; 0 takes the likeliest."""
    top_k: int | None = None
    """Draw from the k likeliest bytes only."""
    top_p: float | None = None
    """Draw from the fewest likeliest bytes that together have this probability."""
    min_p: float | None = None
    """Draw from bytes at least this times as probable as the likeliest."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]", help_behavior_hint="")] = ()
    r"""End before any of these. Understood are \n, \r, \t, \0, \\ and \xNN, a byte."""
    seed: int = 0
    """The same seed gives the same completion."""
    mode: Literal["byte", "boundary"] = "byte"
    """Byte by byte, or token by token, which only converted models can do."""
    token_temperature: float | None = None
    """Of the law of a token, in mode boundary."""
    stream: bool = False
    """Write text as it comes; invalid bytes become U+FFFD."""
    utf8: bool = False
    """Generate valid UTF-8 only."""
    together: Annotated[Together, tyro.conf.OmitArgPrefixes] = field(default_factory=Together)

    def run(self) -> None:
        from bytelm.generate import generate, stream

        check_models(self.models, self.together)
        if self.stream and self.mode == "boundary":
            raise UsageError("--stream goes byte by byte; leave out --mode boundary")
        prompt = self._prompt()
        settings: dict[str, Any] = {name: getattr(self, name) for name in _SETTINGS}
        settings["stop"] = [unescaped(s) for s in self.stop]
        tokens: dict[str, Any] = {"mode": self.mode, "token_temperature": self.token_temperature}
        with usage(ValueError):
            # No prompts: this only checks the settings, before a model takes its time to load.
            generate(None, [], **settings, **tokens)  # type: ignore[arg-type]
        lm = model(self.models, self.together)
        with usage(ValueError):
            if self.stream:
                for piece in stream(lm, prompt, **settings):
                    _write(piece.encode())
            else:
                _write(generate(lm, [prompt], **settings, **tokens)[0])
        if sys.stdout.isatty():
            _write(b"\n")

    def _prompt(self) -> bytes:
        if self.prompt is not None and self.prompt_file is None:
            return os.fsencode(self.prompt)  # an argument may hold bytes that are not UTF-8
        if self.prompt_file is not None and self.prompt is None:
            return sys.stdin.buffer.read() if self.prompt_file == "-" else read(self.prompt_file)
        raise UsageError("give the prompt by one of --prompt and --prompt-file")


_SETTINGS = ("max_bytes", "temperature", "top_k", "top_p", "min_p", "seed", "utf8")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def unescaped(text: str) -> bytes:
    """The bytes that a string of the command line with escapes stands for; UsageError for an unknown one."""

    def escape(match: re.Match[bytes]) -> bytes:
        if match[1] in _ESCAPES:
            return _ESCAPES[match[1]]
        if len(match[1]) == 3:
            return bytes.fromhex(match[1][1:].decode())
        raise UsageError(rf"--stop {text}: a \ must be followed by n, r, t, 0, \ or xNN")

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.|$)", escape, os.fsencode(text), flags=re.DOTALL)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
