"""What `import bytelm` and the help of its commands import, and what they need not."""

import tomllib

import pytest
from commands import ROOT, python

import bytelm

HEAVY = {"jax", "flax", "orbax", "grain", "tensorflow_datasets", "tokenizers", "transformers", "matplotlib"}


def heavy_after(code):
    done = python(f"{code}\nimport sys\nprint(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


@pytest.mark.parametrize("command", ["", "generate", "score", "info", "eval", "fim", "prepare"])
def test_help_imports_nothing_heavy(command):
    args = [command, "--help"] if command else ["--help"]
    code = f"from bytelm.cli import main\ntry: main({args!r})\nexcept SystemExit as end: assert end.code == 0"
    assert heavy_after(code) == []


def test_importing_the_package_imports_nothing_heavy():
    assert heavy_after("import bytelm") == []
    assert heavy_after("import tokenizers") == ["tokenizers"]  # the control


def test_names_that_are_also_modules_stay_functions():
    code = """
import bytelm
import bytelm.generate
import bytelm.load
import bytelm.lm
from bytelm.generate import adjusted
import importlib
importlib.import_module("bytelm.generate")
assert callable(bytelm.generate) and callable(bytelm.load) and callable(bytelm.stream)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_public_face():
    assert all(hasattr(bytelm, name) for name in bytelm.__all__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert bytelm.__version__ == project["version"]
    assert project["scripts"]["bytelm"] == "bytelm.cli:main"
