"""What a training run is: one frozen dataclass, its JSON form, and how it is named and changed.

An experiment is a file in `configs/` that assigns a `Config` to `config`. On the command line every field
can be changed, ``--training.steps 100``. A run writes its resolved config to ``config.json``, from which
`bytelm.load` builds the model again; reading that file executes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bytelm.data import AnySource, Bpe, Files, Fim, Mix, Stdlib, Tfds
from bytelm.models import (
    CONSTRUCTORS,
    ByteTransformerConfig,
    ClassifierConfig,
    ModelConfig,
    TokenLMConfig,
    backbone,
)
from bytelm.models.rotary import Rope
from bytelm.sharding import MeshShape


@dataclass(frozen=True)
class Data:
    """Where bytes come from and how rows of symbols, bytes or tokens, are made of them."""

    source: AnySource | Mix = field(default_factory=Stdlib)
    row: int = 2048  # symbols of a row; the model's context
    piece: int | None = None  # documents are cut into pieces of so many bytes and shuffled; None: whole
    prefetch: int = 2  # batches made ahead, on a thread
    tokenizer: Bpe | None = None  # of a tokenized model; None: symbols are bytes
    fim: Fim = field(default_factory=Fim)  # fill-in-the-middle, in training only


@dataclass(frozen=True)
class Optimizer:
    """How parameters move. Rates are per step."""

    name: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 3e-3
    warmup: int = 100  # steps of linear rise
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay: float = 0.2  # wsd: the share of the steps, at the end, in which the rate falls
    final: float = 0.1  # the last rate, as a share of the highest
    weight_decay: float = 0.1  # of matrices, times the rate
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95  # Muon's
    clip: float = 1.0  # largest norm of the gradient


@dataclass(frozen=True)
class Training:
    steps: int = 1000
    rows: int = 8  # of the global batch
    accumulate: int = 1  # parts that the batch is worked through in
    seed: int = 0
    ema: float | None = None  # decay of averaged parameters, which are then the ones evaluated and loaded
    log_every: int = 10
    profile: tuple[int, int] | None = None  # steps [first, last) written to the run's profile/


@dataclass(frozen=True)
class Evaluation:
    every: int = 500
    max_bytes: int | None = 131_072  # of held-out documents while training; None: all
    final_max_bytes: int | None = None  # at the end
    rows: int = 16
    split: Literal["valid", "test"] = "valid"
    marks: bool = False  # at the end print what gzip and xz make of the same bytes


@dataclass(frozen=True)
class Samples:
    """Texts drawn at every evaluation and at the end."""

    prompts: tuple[str, ...] = ("",)
    max_bytes: int = 400
    temperature: float = 0.8
    top_p: float = 0.95


@dataclass(frozen=True)
class Checkpoints:
    every: int = 500
    keep_last: int = 2
    keep_every: int | None = None  # checkpoints at multiples of this are kept for good


@dataclass(frozen=True)
class Config:
    """A training run."""

    model: ModelConfig = field(default_factory=ByteTransformerConfig)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    samples: Samples = field(default_factory=Samples)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    mesh: MeshShape = field(default_factory=MeshShape)

    def __post_init__(self) -> None:
        positive = {
            "data.row": self.data.row,
            "training.steps": self.training.steps,
            "training.rows": self.training.rows,
            "training.accumulate": self.training.accumulate,
            "training.log_every": self.training.log_every,
            "evaluation.every": self.evaluation.every,
            "evaluation.rows": self.evaluation.rows,
            "checkpoints.every": self.checkpoints.every,
            "checkpoints.keep_last": self.checkpoints.keep_last,
        }
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        inner = backbone(self.model)
        reads_tokens, tokenizer = isinstance(inner, TokenLMConfig), self.data.tokenizer
        if reads_tokens != (tokenizer is not None) and not hasattr(inner, "pieces"):
            kind = type(inner).__name__
            raise ValueError(
                f"model is a {kind} and data.tokenizer {self.data.tokenizer}: a TokenLMConfig reads tokens, "
                "all others bytes; start from configs/bpe.py"
            )
        if isinstance(inner, TokenLMConfig) and self.data.row > inner.context:
            raise ValueError(f"data.row {self.data.row} is longer than model.context {inner.context}")
        if isinstance(self.model, ClassifierConfig):
            self._check_classifier()
        if self.training.rows % self.training.accumulate:
            raise ValueError(
                f"training.rows {self.training.rows} is no multiple of "
                f"training.accumulate {self.training.accumulate}"
            )
        if self.training.ema is not None and not 0.0 < self.training.ema < 1.0:
            raise ValueError(f"training.ema must be in (0, 1), got {self.training.ema}")

    def _check_classifier(self) -> None:
        data = self.data
        if not isinstance(data.source, Files) or data.source.label is None:
            raise ValueError(
                "a classifier needs documents with labels: data.source must be Files with `label`, the field "
                "of a JSON line that says what its text is"
            )
        if data.piece is not None or data.fim.rate:
            raise ValueError("a classifier reads whole documents: data.piece must be None, data.fim.rate 0")
        if self.samples.prompts:
            raise ValueError("a classifier draws no texts: samples.prompts must be ()")


# ---- JSON ----------------------------------------------------------------------------------------------

_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(Config, Data, Optimizer, Training, Evaluation, Samples, Checkpoints, MeshShape),
        *(Stdlib, Files, Tfds, Mix, Bpe, Fim),
        *CONSTRUCTORS,
        Rope,
    )
}


def to_dict(config: Any) -> Any:
    """`config` as plain data; every dataclass bears its name under ``type``."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    return [to_dict(x) for x in config] if isinstance(config, tuple) else config


def from_dict(tree: Any, where: str = "config") -> Any:
    """The inverse of `to_dict`. Raises ValueError naming a type or field that does not exist here."""
    if isinstance(tree, list):
        return tuple(from_dict(x, f"{where}[{i}]") for i, x in enumerate(tree))
    if not isinstance(tree, dict):
        return tree
    cls = _TYPES.get(tree.get("type", ""))
    if cls is None:
        raise ValueError(f"{where}: unknown type {tree.get('type')!r}; known: {', '.join(sorted(_TYPES))}")
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(tree) - known - {"type"}):
        raise ValueError(
            f"{where}: {cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    return cls(**{name: from_dict(x, f"{where}.{name}") for name, x in tree.items() if name != "type"})


def read(path: Path) -> Config:
    """The config in a run's ``config.json``. Raises ValueError where it is none."""
    try:
        config = from_dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a config: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path}: not the config of a run")
    return config


# ---- what may differ -----------------------------------------------------------------------------------

_FREE_TO_RESUME = (
    *("mesh", "checkpoints", "evaluation", "samples", "data.prefetch"),
    *("training.steps", "training.log_every", "training.profile", "model.remat", "model.backbone.remat"),
)
_FREE_TO_START_FROM = (
    *("model.dropout", "model.remat", "model.dtype"),
    *("model.backbone.dropout", "model.backbone.remat", "model.backbone.dtype"),
)


def differences(a: Any, b: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """The fields in which two configs differ: (name, value in `a`, value in `b`)."""
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        parts = [(f"{where}.{f.name}".lstrip("."), f.name) for f in dataclasses.fields(a)]
        return [d for name, f in parts for d in differences(getattr(a, f), getattr(b, f), name)]
    return [] if a == b else [(where, a, b)]


def lends_backbone(saved: Config, now: Config) -> bool:
    """Whether `saved` is a language model that a classifier, `now`, may begin from."""
    return isinstance(now.model, ClassifierConfig) and not isinstance(saved.model, ClassifierConfig)


def check_same(saved: Config, now: Config, where: Path, *, weights_only: bool = False) -> None:
    """Raises ValueError naming the first field that keeps a checkpoint of `saved` from going on as `now`.

    With `weights_only` only the model must be the same (`--init-from`), or be the backbone of `now`.
    """
    free: tuple[str, ...]
    if weights_only:
        lent = lends_backbone(saved, now)
        pair = (saved.model, backbone(now.model) if lent else now.model)
        free, found = _FREE_TO_START_FROM, differences(*pair, "model.backbone" if lent else "model")
    else:
        free, found = _FREE_TO_RESUME, differences(saved, now)
    for name, old, new in found:
        if not any(name == f or name.startswith(f + ".") for f in free):
            raise ValueError(
                f"{where} was made with {name} = {old!r}, this run has {new!r}; "
                "set it back, or choose another --workdir"
            )
