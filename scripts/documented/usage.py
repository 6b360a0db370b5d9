"""Whether a command could run: its script or config exists, and takes its flags with these values.

Nothing is run but the parsers of the commands themselves.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import tyro

from bytelm.cli import Command
from bytelm.training import launch

_OURS = re.compile(r"(scripts|configs|docs|tests|\.ci)/\S+")


class _Understood(BaseException):
    """The parser took the arguments."""


def wrong(command: str, root: Path) -> str | None:
    """What is wrong with a line of shell, or None. Commands that are not this project's are not looked at."""
    try:
        parts = list(_simple(command))
    except ValueError as error:
        return str(error)
    for words in parts:
        for word in words:
            if _OURS.fullmatch(word) and not (root / word).exists():
                return f"{word} does not exist"
        program = _program(words)
        if program is None:
            continue
        name, arguments = words[program], words[program + 1 :]
        if problem := _refused(name, arguments, root):
            return f"{shlex.join([name, *arguments])}: {problem}"
    return None


def _simple(command: str) -> Iterator[list[str]]:
    """The simple commands of a line: between `&&`, `||`, `|` and `;`, without redirections."""
    words: list[str] = []
    try:
        lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=";")
        lexer.whitespace_split = True
        split = list(lexer)
    except ValueError as error:
        raise ValueError(f"{command!r:.80}: {error}") from error
    for word in [*split, ";"]:
        if word in ("&&", "||", "|", ";"):
            cut = next((i for i, w in enumerate(words) if re.match(r"\d?[<>]", w)), len(words))
            yield words[:cut]
            words = []
        else:
            words.append(word)


def _program(words: list[str]) -> int | None:
    """Where this project's program stands among the words of a command, if that is what it starts."""
    for i, word in enumerate(words):
        if Path(word).name == "bytelm" or word.startswith("bytelm.") or word.endswith(".py"):
            before = [w for w in words[:i] if "=" not in w]  # variables that it is given
            starts = not before or Path(before[-1]).name.startswith("python") or before[-1] == "-m"
            return i if starts else None
    return None


def _refused(name: str, arguments: list[str], root: Path) -> str | None:
    if name.startswith("bytelm."):
        return None if importlib.util.find_spec(name) else "no such module"
    if name.endswith(".py") and not (root / name).is_file():
        return f"{name} does not exist"
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            if Path(name).name == "bytelm":
                tyro.cli(Command, prog="bytelm", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
            elif name == "train.py":
                launch.parse(arguments, root / "configs")
            elif _parses(root / name):
                _parsed(root / name, arguments)
        except _Understood:
            return None
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        except SystemExit as stopped:
            return None if not stopped.code else " ".join(said.getvalue().split())[-600:]
    return None


def _parses(script: Path) -> bool:
    """Whether a script has a parser, at which its run can be stopped."""
    names = {x.attr for x in ast.walk(ast.parse(script.read_text())) if isinstance(x, ast.Attribute)}
    return bool(names & {"ArgumentParser", "parse_args"})


def _parsed(script: Path, arguments: list[str]) -> None:
    """Runs a script up to where it has parsed its arguments, with argparse or as train.py does."""
    parse_args, parse = argparse.ArgumentParser.parse_args, launch.parse

    def understood(parser: argparse.ArgumentParser, args: list[str] | None = None) -> None:
        parse_args(parser, args)
        raise _Understood

    def understood_too(args: list[str], configs: Path) -> None:
        parse(args, configs)
        raise _Understood

    with (
        mock.patch.object(sys, "argv", [str(script), *arguments]),
        mock.patch.object(sys, "path", [str(script.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", understood),
        mock.patch.object(launch, "parse", understood_too),
        mock.patch.dict("os.environ"),
    ):
        runpy.run_path(str(script), run_name="__main__")
