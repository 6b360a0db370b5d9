"""A Hugging Face folder -> our model: tensors are mapped and go one by one to where they are used."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from bytelm import layers, models, sharding
from bytelm.hub.families import Family, read_config
from bytelm.hub.tensors import Leaf, leaves, ours, their_shape
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import nested
from bytelm.tokenized import TransformerLM

_FLOATS = ("F64", "F32", "F16", "BF16")
# Masks and frequencies that older programs saved beside the weights.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|(attn|attention)\.(bias|masked_bias))$")


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder says, its weights unread.

    files: the safetensors file of each tensor. tokenizer: its tokenizer.json, if there is one. bos: the
    token that stands before a text. eos: the tokens that end one. names: special tokens by role.
    """

    path: Path
    family: Family
    config: TokenLMConfig
    files: dict[str, Path]
    tokenizer: Path | None
    bos: int | None
    eos: tuple[int, ...]
    names: dict[str, str]


def is_folder(path: Path) -> bool:
    """Whether `path` holds a Hugging Face model rather than a run of this project."""
    try:
        data = _json(path / "config.json")
    except ValueError:
        return False
    return "model_type" in data or "architectures" in data


def look(path: str | Path) -> Folder:
    """What is in a folder. Raises FileNotFoundError, or ValueError naming what is wrong or not supported."""
    try:
        return _looked(Path(path))
    except (TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: config.json or one of the two *_config.json holds a value that makes no sense "
            f"({type(error).__name__}: {error})"
        ) from error


def _looked(path: Path) -> Folder:
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: no config.json in it")
    data = _json(path / "config.json")
    family, config = read_config(data, str(path / "config.json"))
    tokenizer = path / "tokenizer.json"
    given, about = _json(path / "generation_config.json"), _json(path / "tokenizer_config.json")
    names = {
        role: token["content"] if isinstance(token, dict) else token
        for role in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := about.get(role))
    }
    ids = {
        token["content"]: int(number)
        for number, token in (about.get("added_tokens_decoder") or {}).items()
        if isinstance(token, dict)
    }

    def tokens(role: str) -> tuple[int, ...]:
        """Of a role, from the first file that knows it; several may end a text."""
        for value in (given.get(f"{role}_id"), data.get(f"{role}_id"), ids.get(names.get(role, ""))):
            if value is not None:
                found = tuple(value) if isinstance(value, list) else (value,)
                for token in found:
                    if not isinstance(token, int) or not 0 <= token < config.vocab_size:
                        raise ValueError(
                            f"{path}: {role}_id {token!r}: the model's tokens are 0..{config.vocab_size - 1}"
                        )
                return found
        return ()

    return Folder(
        path,
        family,
        config,
        _files(path),
        tokenizer if tokenizer.is_file() else None,
        next(iter(tokens("bos_token")), None),
        tokens("eos_token"),
        names,
    )


def read(
    path: str | Path,
    *,
    dtype: Literal["float32", "bfloat16"] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[TransformerLM, Folder]:
    """The model in a folder, and what else the folder says.

    Args:
      path: with config.json and model.safetensors, or its shards and their index.
      dtype: of parameters and computation; None: float32 on CPU, bfloat16 elsewhere.
      mesh: over which the parameters are cut; None: this process's first device. Each tensor goes to its
        place on its own, so the host holds one tensor besides what the devices hold.

    Raises FileNotFoundError where something is missing, ValueError naming what is wrong: an architecture
    or a promise of the config that is not supported, tensors that are missing, too many, of a wrong shape or
    type, not finite, a file that is cut short, a pickle.
    """
    folder = look(path)
    config = dataclasses.replace(folder.config, dtype=dtype or "auto")
    mesh = mesh or sharding.make_mesh(devices=jax.local_devices()[:1])
    models.check_mesh(config, mesh, {})
    wanted = leaves(folder.family, config)
    held: dict[str, list[tuple[str, Leaf]]] = defaultdict(list)
    for name, leaf in wanted.items():
        held[leaf.source.name].append((name, leaf))
    where = _matched(folder, set(held), config)
    params: dict[str, jax.Array] = {}
    for file in sorted(set(where.values())):
        with _opened(file) as tensors:
            for name in sorted(n for n in held if where[n] == file):
                stored = _stored_name(folder, name)
                theirs = _tensor(tensors, stored, their_shape(held[name][0][1], config), file)
                for target, leaf in held[name]:
                    params[target] = _placed(ours(theirs, leaf, config), leaf, config, mesh)
    head = folder.family.names["head"]
    if config.tied and head in folder.files and head != _stored_name(folder, folder.family.names["table"]):
        with _opened(folder.files[head]) as tensors:
            _same(tensors, head, params["table"], folder.files[head])
    return TransformerLM(config, nested({name: params[name] for name in wanted})), folder


def _placed(x: np.ndarray, leaf: Leaf, config: TokenLMConfig, mesh: jax.sharding.Mesh) -> jax.Array:
    dtype = jnp.dtype(layers.compute_dtype(config.dtype))
    place = jax.sharding.NamedSharding(mesh, leaf.spec)
    return jax.make_array_from_callback(
        leaf.shape, place, lambda index: np.ascontiguousarray(x[index], dtype=dtype)
    )


def _tensor(tensors: Any, name: str, shape: list[int], file: Path) -> np.ndarray:
    about = tensors.get_slice(name)
    if about.get_dtype() not in _FLOATS:
        kinds = ", ".join(_FLOATS)
        raise ValueError(f"{file}: tensor {name!r} is of type {about.get_dtype()}; {kinds} are read")
    if list(about.get_shape()) != shape:
        raise ValueError(f"{file}: tensor {name!r} has shape {about.get_shape()}, config.json says {shape}")
    x = tensors.get_tensor(name)
    for at in range(0, len(x), max(1, 2**22 * len(x) // x.size)):  # the check takes little memory
        if not np.isfinite(x[at : at + max(1, 2**22 * len(x) // x.size)]).all():
            raise ValueError(f"{file}: tensor {name!r} holds numbers that are not finite")
    return x


def _same(tensors: Any, head: str, table: jax.Array, file: Path) -> None:
    """A tied head may be saved too; it must be what it is tied to."""
    stored = tensors.get_tensor(head)
    if stored.shape != table.shape or not np.array_equal(stored.astype(table.dtype), np.asarray(table)):
        raise ValueError(f"{file}: {head!r} differs from the table of tokens, but config.json ties them")


# ---- files ---------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: not a JSON object")
    return data


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from error


def _files(path: Path) -> dict[str, Path]:
    """The file of each tensor."""
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if index.is_file():
        listed = _json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(re.fullmatch(r"[\w.-]+", str(x)) for x in listed.values()):
            raise ValueError(f"{index}: no weight_map of file names in this folder")
        found = {name: path / file for name, file in listed.items()}
    elif single.is_file():
        with _opened(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)
    else:
        pickles = sorted(x.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for x in path.glob(kind))
        if pickles:
            raise ValueError(
                f"{path}: {pickles[0]} is a pickle, which can run any code and is not read; "
                "save the model as safetensors with the program that made it"
            )
        raise FileNotFoundError(f"{path}: no model.safetensors and no model.safetensors.index.json in it")
    for file in sorted(set(found.values())):
        if not file.is_file():
            raise FileNotFoundError(f"{index}: names {file.name}, which is not there")
        with _opened(file) as tensors:
            inside = set(tensors.keys())
        said = {name for name, there in found.items() if there == file}
        if inside != said:
            wrong = sorted(inside ^ said)[0]
            raise ValueError(f"{file}: tensor {wrong!r} is in the file or in the index, but not in both")
    return found


def _stored_name(folder: Folder, name: str) -> str:
    """The name of a tensor in the folder: without its prefix where the whole folder lacks it.

    Where head and table are tied, the one may stand for the other.
    """
    prefix, names = folder.family.prefix, folder.family.names
    if folder.config.tied and name == names["table"] and names["head"] in folder.files:
        bare = name.removeprefix(prefix)
        name = name if {name, bare} & set(folder.files) else names["head"]
    if name.startswith(prefix) and not any(x.startswith(prefix) for x in folder.files):
        return name.removeprefix(prefix)
    return name


def _matched(folder: Folder, names: set[str], config: TokenLMConfig) -> dict[str, Path]:
    """The file of each tensor that the model has. Raises ValueError for one missing or one too many."""
    stored = {_stored_name(folder, name): name for name in names}
    if missing := sorted(set(stored) - set(folder.files)):
        raise ValueError(f"{folder.path}: tensor {missing[0]!r} is missing ({len(missing)} are)")
    known = set(stored)
    if config.tied:
        known.add(folder.family.names["head"])
    extra = sorted(x for x in set(folder.files) - known if not _BUFFERS.search(x))
    if extra:
        raise ValueError(
            f"{folder.path}: tensor {extra[0]!r} has no place in the model that config.json describes "
            f"({len(extra)} have none)"
        )
    return {name: folder.files[at] for at, name in stored.items()}
