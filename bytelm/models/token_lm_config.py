"""The sizes and parts of a tokenized decoder (`bytelm.models.token_lm`)."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

from bytelm.models.rotary import Rope
from bytelm.models.sizes import Stacked

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]
NormKind: TypeAlias = Literal["rms", "rms_plus_one", "layer"]


@dataclasses.dataclass(frozen=True)
class TokenLMConfig(Stacked):
    """Sizes and parts of a tokenized decoder; None takes the usual proportion."""

    vocab_size: int = 50_257
    layers: int = 8
    width: int = 512
    heads: int = 8
    key_heads: int | None = None  # default: as many as heads; 1: multi-query
    head_width: int | None = None  # default: width / heads
    mlp_width: int | None = None  # default: 8/3 width, rounded up to a multiple of 64
    context: int = 2048  # positions that there are, in tokens
    rope: Rope | None = dataclasses.field(default_factory=Rope)  # None: learned positions
    norm: NormKind = "rms"
    norm_epsilon: float = 1e-6
    post_norms: bool = False  # also after attention and after the feed-forward layer (Gemma 2)
    parallel: bool = False  # attention and feed-forward read the same stream (GPT-NeoX)
    qk_norm: bool = True  # norm of each head's queries and keys (Qwen 3)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    activation: Activation = "silu"
    window: int | None = None  # tokens that a position sees, itself included; default: all
    full_layers: tuple[int, ...] = ()  # layers without the window
    query_scale: float | None = None  # of the scores; default: head_width ** -0.5
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    tied: bool = False  # the head is the table of tokens
    isolate_documents: bool = True
    dropout: float = 0.0
    remat: Literal["none", "dots", "full"] = "none"  # what is computed again in the backward pass
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the compute; auto: float32 on CPU

    def __post_init__(self) -> None:
        self.check_stack("vocab_size", "context", "window")
        if self.rope is not None and int(self.H * self.rope.share) % 2:
            raise ValueError(
                f"model: {int(self.H * self.rope.share)} of a head's {self.H} turn (rope.share "
                f"{self.rope.share}); the number must be even: rotary positions pair its halves"
            )
        for name, known in (("activation", get_args(Activation)), ("norm", get_args(NormKind))):
            if getattr(self, name) not in known:
                raise ValueError(f"model.{name} must be one of {', '.join(known)}: {getattr(self, name)!r}")
        if any(not 0 <= i < self.layers for i in self.full_layers):
            raise ValueError(f"model.full_layers {self.full_layers}: the layers are 0..{self.layers - 1}")

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return self.H**-0.5 if self.query_scale is None else self.query_scale

    def window_of(self, layer: int) -> int | None:
        return None if layer in self.full_layers else self.window
