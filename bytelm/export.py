"""A run as a folder that stands by itself: a Hugging Face folder, or safetensors of a byte model."""

from __future__ import annotations

import shutil
from pathlib import Path


def export(run: str | Path, folder: str | Path, *, step: int | None = None) -> str:
    """Writes the model of a run into `folder`, which must be empty or new; says what was written.

    A tokenized run becomes a Hugging Face folder: config.json, model.safetensors, tokenizer.json and
    generation_config.json, read by transformers. Any other becomes config.json and model.safetensors, which
    `bytelm.load` reads, and the tokenizer.json of a classifier of tokens. Weights are those that evaluation
    used, the averaged ones where there are any.

    Raises as `bytelm.load`; FileExistsError for a folder that is not empty; ValueError where no architecture
    of transformers has all that the model has.
    """
    import jax

    from bytelm import saved
    from bytelm.load import parameters
    from bytelm.models import TokenLMConfig, backbone

    run, folder = Path(run), Path(folder)
    config, params = parameters(run, step)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: there is something already; name an empty or a new folder")
    params = jax.device_get(params)
    tokenizer = run / "tokenizer.json"
    if not isinstance(config.model, TokenLMConfig):
        if isinstance(backbone(config.model), TokenLMConfig):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tokenizer, folder / tokenizer.name)
        saved.save(folder, config, params)
        return f"{folder}: {type(config.model).__name__.removesuffix('Config')}, safetensors"
    from bytelm import hub
    from bytelm.data.tokens import Tokens
    from bytelm.models.token_lm import unstack

    end = Tokens(tokenizer).end
    hub.save(folder, config.model, unstack(params), tokenizer=tokenizer, bos=end, eos=[end])
    return f"{folder}: a Hugging Face folder"
