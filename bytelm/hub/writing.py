"""Our model -> a Hugging Face folder, in the form that transformers reads."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from bytelm.hub.families import read_config, write_config
from bytelm.hub.tensors import Leaf, leaves, theirs
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import Params, flat

SHARD = 2**30  # bytes of a file, unless one tensor is larger
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def save(
    path: str | Path,
    config: TokenLMConfig,
    params: Params,
    *,
    tokenizer: str | Path | None = None,
    bos: int | None = None,
    eos: Iterable[int] = (),
    like: str | Path | None = None,
    shard: int = SHARD,
) -> None:
    """Writes the model as a folder that `read` and transformers load.

    Args:
      path: a folder, made if it is not there; one that holds a model is refused.
      config, params: the model's, layers one by one (`bytelm.models.token_lm.unstack`).
      tokenizer: a tokenizer.json to copy.
      bos, eos: the tokens that begin and end a text.
      like: a folder whose config.json and tokenizer are taken over, as for weights changed since loading.
      shard: bytes of a file at most; more become several files and an index.

    Raises ValueError where no architecture of `bytelm.hub.families` has all that the model has.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if (path / "config.json").exists():
        raise ValueError(f"{path}: there is a config.json already; name an empty folder")
    data = _config_like(Path(like), config) if like is not None else write_config(config)
    family, _ = read_config(data, "config")
    wanted, values = leaves(family, config), flat(params)
    held: dict[str, list[tuple[Leaf, Any]]] = defaultdict(list)
    for name, leaf in wanted.items():
        held[leaf.source.name].append((leaf, values[name]))
    kinds = {str(x.dtype) for x in values.values()}
    data |= {"torch_dtype": kinds.pop() if len(kinds) == 1 else "float32"}
    ends = list(eos)
    if like is None:
        data |= {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
        _write(path / "generation_config.json", {"bos_token_id": bos, "eos_token_id": ends or None})
    else:
        for name in _BESIDE:
            if (Path(like) / name).is_file():
                shutil.copyfile(Path(like) / name, path / name)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, path / "tokenizer.json")
    _weights(path, held, config, shard)
    _write(path / "config.json", data)  # last: a folder without it is not a model


def _config_like(path: Path, config: TokenLMConfig) -> dict[str, Any]:
    data = json.loads((path / "config.json").read_text(encoding="utf-8"))
    _, there = read_config(data, str(path / "config.json"))
    if (there.layers, there.width, there.vocab_size) != (config.layers, config.width, config.vocab_size):
        raise ValueError(f"{path}: its config.json is of another model")
    return {name: value for name, value in data.items() if name != "dtype"}


def _weights(path: Path, held: dict[str, list[tuple[Leaf, Any]]], config: TokenLMConfig, shard: int) -> None:
    """The tensors, in files of at most `shard` bytes, one file in memory at a time."""
    sizes = {name: sum(x.nbytes for _, x in parts) for name, parts in held.items()}
    files: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if files[-1] and filled + size > shard:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    index: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else "model.safetensors"
        tensors = {name: theirs(held[name], config) for name in names}
        save_file(tensors, path / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    if len(files) > 1:
        _write(
            path / "model.safetensors.index.json",
            {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index},
        )


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
