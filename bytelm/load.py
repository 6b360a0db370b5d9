"""A path -> a `ByteLM`: a run of this project, what was exported of one, or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bytelm.lm import ByteLM

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from bytelm.classifying import TextClassifier
    from bytelm.config import Config
    from bytelm.masked import MaskedModel
    from bytelm.parameters import Params


def load(
    path: str | Path,
    *,
    step: int | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    mesh: Mesh | None = None,
) -> ByteLM:
    """The model in folder `path`.

    Args:
      path: a run of ``train.py``: its last whole checkpoint is loaded; a byte model that `bytelm export`
        wrote; or a Hugging Face folder with a tokenizer.json. Tokenized models are converted
        (`bytelm.exact.convert`); texts of a Hugging Face folder begin and end with the tokens that it names.
      step: of a run, another of its checkpoints.
      dtype: "float32" or "bfloat16" for the computation; None: as in training, or what suits the device.
      mesh: cut the parameters over it (`bytelm.sharding.make_mesh`), for models that one device does not
        hold, and use the model under ``jax.set_mesh(mesh)``. Its `tensor` axis cuts any batch, the others
        only batches whose rows they divide. None: one device.

    Raises FileNotFoundError where there is no such folder or no checkpoint in it, ValueError where the
    folder is not a model's, not of a kind that is supported, or does not fit the mesh. Nothing in the folder
    is executed.
    """
    if _is_hub(Path(path)):
        return _load_hub(Path(path), step, dtype, mesh)
    import dataclasses

    import jax

    from bytelm import models
    from bytelm.parameters import on_one_device

    config, params = parameters(Path(path), step, mesh)
    if isinstance(config.model, models.ClassifierConfig):
        raise ValueError(f"{path}: a classifier, no law over bytes; bytelm.load.load_classifier reads it")
    model_config = config.model if dtype is None else dataclasses.replace(config.model, dtype=dtype)
    if mesh is None:
        params = on_one_device(params)
    if isinstance(config.model, models.TokenLMConfig):
        return _converted(model_config, params, Path(path) / "tokenizer.json")
    if not models.is_causal(config.model):
        raise ValueError(
            f"{path}: a {type(config.model).__name__} predicts hidden words and gives no law of texts; "
            "bytelm.load.load_masked reads it"
        )
    from bytelm.trained import TrainedLM

    model = jax.eval_shape(lambda: models.build(model_config, jax.random.key(0)))
    return TrainedLM(model, params, config.data.row)


def load_classifier(path: str | Path, *, step: int | None = None) -> TextClassifier:
    """The classifier in folder `path`, a run of ``train.py`` or an exported one. Errors as `load`."""
    import jax

    from bytelm import models
    from bytelm.classifying import TextClassifier
    from bytelm.data.tokens import Tokens
    from bytelm.parameters import on_one_device

    config, params = parameters(Path(path), step)
    if not isinstance(config.model, models.ClassifierConfig):
        raise ValueError(f"{path}: a language model, no classifier; bytelm.load reads it")
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    reads_tokens = isinstance(config.model.backbone, models.TokenLMConfig)  # others cut bytes into sub-words
    tokens = Tokens(Path(path) / "tokenizer.json") if reads_tokens else None
    return TextClassifier(model, on_one_device(params), config.data.row, tokens)


def load_masked(path: str | Path, *, step: int | None = None) -> MaskedModel:
    """The model of hidden words in folder `path`, a run of ``train.py``. Errors as `load`."""
    import jax

    from bytelm import models
    from bytelm.masked import MaskedModel
    from bytelm.parameters import on_one_device

    config, params = parameters(Path(path), step)
    if isinstance(config.model, models.ClassifierConfig) or models.is_causal(config.model):
        raise ValueError(f"{path}: a {type(config.model).__name__}, which predicts no hidden words")
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    params = on_one_device(params)
    return MaskedModel(model, params, config.data.row, config.evaluation.rows)


def _converted(config: Any, params: Params, tokenizer: Path) -> ByteLM:
    """A tokenized run as the byte model that it is equivalent to."""
    from bytelm.data.tokens import Tokens
    from bytelm.exact import convert
    from bytelm.models.token_lm import unstack
    from bytelm.tokenized import TransformerLM

    tokens = Tokens(tokenizer)
    if tokens.vocab_size != config.vocab_size:
        raise ValueError(f"{tokenizer}: {tokens.vocab_size:,} tokens, the model has {config.vocab_size:,}")
    return convert(TransformerLM(config, unstack(params)), tokenizer, bos=tokens.end, eos=tokens.end)


def parameters(path: Path, step: int | None = None, mesh: Mesh | None = None) -> tuple[Config, Params]:
    """The config and the parameters of a run, or of what `bytelm.saved` wrote; see `load`."""
    import jax

    from bytelm import models, saved, sharding
    from bytelm.parameters import params_of

    if saved.is_saved(path):
        from bytelm import config as configs

        config = configs.read(path / "config.json")
        model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
        params = saved.read(path, config, params_of(model))
        return config, params if mesh is None else jax.device_put(params, _cut(config, model, mesh))
    from bytelm.training.checkpoints import Checkpoints

    config, folder, step = _open(path, step)
    model = jax.eval_shape(lambda: models.build(config.model, jax.random.key(0)))
    where = _cut(config, model, mesh or sharding.make_mesh(devices=jax.local_devices()[:1]))
    checkpoints = Checkpoints(folder)
    params = checkpoints.params(step, params_of(model), where)
    checkpoints.close()
    return config, params


def _cut(config: Config, model: Any, mesh: Mesh) -> Params:
    """Where each parameter lies on a mesh. Raises ValueError where it does not fit."""
    import jax

    from bytelm import models
    from bytelm.parameters import specs_of

    models.check_mesh(config.model, mesh, {})
    return jax.tree.map(lambda spec: jax.sharding.NamedSharding(mesh, spec), specs_of(model))


def describe(path: str | Path) -> dict[str, Any]:
    """What is in a model's folder, for people; parameters are counted, not read. Errors as `load`."""
    from bytelm import models, saved
    from bytelm.models import cost

    if _is_hub(Path(path)):
        return _describe_hub(Path(path))
    if saved.is_saved(Path(path)):
        from bytelm import config as configs

        config, checkpoint = configs.read(Path(path) / "config.json"), "exported"
    else:
        config, _, step = _open(Path(path), None)
        checkpoint = f"step {step} of {config.training.steps}"
    tokenized = isinstance(models.backbone(config.model), models.TokenLMConfig)
    unit, tokenizer = "bytes", "none: bytes"
    if tokenized:
        unit, tokenizer = "tokens", f"byte-level BPE of {models.backbone(config.model).vocab_size:,} tokens"  # type: ignore[union-attr]
    sizes = cost.parameters(config.model)
    source = config.data.source
    return {
        "family": type(config.model).__name__.removesuffix("Config"),
        "parameters": sizes.total,
        "of these, tables of symbols": sizes.tables,
        "memory, float32": f"{sizes.total * 4 / 1e6:,.1f} MB",
        f"FLOPs a {unit[:-1]}, forward": f"{models.flops(config.model, config.data.row) / 1e6:,.2f} M",
        "context": f"{config.data.row} {unit}"
        + ("" if tokenized else f"; longer texts in windows that overlap by {config.data.row // 2}"),
        "trained on": type(source).__name__,
        "checkpoint": checkpoint,
        "tokenizer": tokenizer,
    }


def last_step(path: str | Path) -> int | None:
    """The step of a run that `load` reads; None for what has no steps, or is not there."""
    folders = (Path(path) / "checkpoints").glob("*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=None)


def _open(path: Path, step: int | None) -> tuple[Config, Path, int]:
    """A run's config, its folder of checkpoints, and the step to load."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if not (path / "config.json").is_file() or not (path / "checkpoints").is_dir():
        raise ValueError(
            f"{path}: not a run of this project: it has no config.json and checkpoints/; "
            "name the folder that train.py printed, or one with a Hugging Face model"
        )
    from bytelm import config
    from bytelm.training.checkpoints import Checkpoints

    read = config.read(path / "config.json")
    checkpoints = Checkpoints(path / "checkpoints")
    there = checkpoints.steps()
    checkpoints.close()
    if not there:
        raise FileNotFoundError(f"{path}: no whole checkpoint in it yet")
    if step is not None and step not in there:
        raise FileNotFoundError(
            f"{path}: no checkpoint of step {step}; there are {', '.join(map(str, there))}"
        )
    return read, path / "checkpoints", there[-1] if step is None else step


# ---- Hugging Face folders ------------------------------------------------------------------------------


def _is_hub(path: Path) -> bool:
    if not (path / "config.json").is_file():
        return False
    from bytelm import hub

    return hub.is_folder(path)


def _load_hub(
    path: Path, step: int | None, dtype: Literal["float32", "bfloat16"] | None, mesh: Mesh | None
) -> ByteLM:
    from bytelm import exact, hub

    if step is not None:
        raise ValueError(f"{path}: a Hugging Face folder has no checkpoints, so no step {step}")
    if not (path / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{path}: no tokenizer.json in it; give a tokenizer to bytelm.exact.convert")
    lm, folder = hub.read(path, dtype=dtype, mesh=mesh)
    if folder.bos is None:
        raise ValueError(
            f"{path}: no bos_token_id in generation_config.json or config.json; "
            "say with bytelm.exact.convert which token begins a text"
        )
    return exact.convert(lm, str(folder.tokenizer), bos=folder.bos, eos=folder.eos)


def _describe_hub(path: Path) -> dict[str, Any]:
    import math

    from bytelm.exact import Unsupported, canonical_of
    from bytelm.hub.reading import look
    from bytelm.hub.tensors import leaves
    from bytelm.models.token_lm import TokenTransformer

    folder = look(path)
    config = folder.config
    sizes = {name: math.prod(leaf.shape) for name, leaf in leaves(folder.family, config).items()}
    parameters = sum(sizes.values())
    tables = sum(size for name, size in sizes.items() if name in ("table", "positions", "head"))
    conversion = "no tokenizer.json: needs a tokenizer"
    if folder.tokenizer is not None:
        try:
            canonical_of(str(folder.tokenizer))
            conversion = (
                "exact" if folder.bos is not None else "exact, once a token that begins a text is given"
            )
        except Unsupported as error:
            conversion = f"refused: {error}"
    window = (
        f", {config.layers - len(config.full_layers)} layers see {config.window}" if config.window else ""
    )
    return {
        "family": folder.family.architecture,
        "parameters": parameters,
        "of these, tables of tokens": tables,
        "memory, float32": f"{parameters * 4 / 1e6:,.1f} MB",
        "FLOPs a token, forward": f"{TokenTransformer.flops(config, config.context) / 1e6:,.2f} M",
        "context": f"{config.context} tokens{window}",
        "vocabulary": config.vocab_size,
        "text begins with": "not said" if folder.bos is None else folder.bos,
        "text ends with": ", ".join(map(str, folder.eos)) or "not said",
        "conversion to bytes": conversion,
    }
