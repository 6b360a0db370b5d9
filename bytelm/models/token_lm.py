"""A causal decoder over tokens: one module for the families of tokenized models that people have.

Its parts are chosen by `TokenLMConfig`; the defaults are the backbone of the flat byte model
(`bytelm.models.byte_transformer`), which is Qwen 3's. The module exists in two forms of the same
parameters: layers stacked and scanned, for training; and one by one (`unstack`), for loaded models, where
each layer's arrays are used where they lie instead of being copied out of the stack at every step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bytelm import layers, sharding
from bytelm.attention import attend
from bytelm.loss import Batch, Counts
from bytelm.models import rotary
from bytelm.models.token_block import Block, Norm, attend_masked
from bytelm.models.token_lm_config import TokenLMConfig
from bytelm.parameters import Params, param, params_of, stack, with_params


class TokenTransformer(nnx.Module):
    """See the module. Made with a key; `stacked` says in which of its two forms."""

    def __init__(self, config: TokenLMConfig, key: jax.Array, *, stacked: bool = True):
        D, V = config.width, config.vocab_size
        table, positions, blocks = jax.random.split(key, 3)
        self.table = param(table, (V, D), (None, "embed"), scale=0.02)
        self.positions = (
            param(positions, (config.context, D), (None, "embed"), scale=0.02)
            if config.rope is None
            else None
        )
        self.blocks: Any
        if stacked:
            self.blocks = stack(lambda k: Block(config, k), config.layers, blocks)
        else:
            self.blocks = nnx.List([Block(config, k) for k in jax.random.split(blocks, config.layers)])
        self.norm = Norm(D, config)
        self.head = None if config.tied else param(None, (D, V), ("embed", None), scale=0.0)
        self.config = config

    def __call__(
        self,
        tokens_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the next token, float32 [B, T, V].

        Args:
          tokens_BT: integers below `vocab_size`; T is at most the context, where positions are learned.
          documents_BT: numbers; tokens of different numbers do not see each other if the config isolates
            documents. None: one document a row.
          dropout_key: None for no dropout.
        """
        return self._logits(self.states(tokens_BT, documents_BT, dropout_key)[0])

    def states(
        self,
        tokens_BT: jax.Array,
        documents_BT: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The last hidden states, normed, [B, T, D], and the document of each, int32 [B, T]."""
        x_BTD, _ = self.read(tokens_BT, documents_BT, dropout_key)
        return self.norm(x_BTD), layers.documents_or_one(documents_BT, tokens_BT)

    def nats(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """-log p of each target token, float32 [B, T]; the key is for dropout."""
        logits_BTV = self._with_whole_tables()(batch["inputs"], batch["documents"], key)
        target_BT1 = batch["targets"].astype(jnp.int32)[..., None]
        chosen_BT = jnp.take_along_axis(logits_BTV, target_BT1, axis=-1)[..., 0]
        return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT

    def _with_whole_tables(self) -> TokenTransformer:
        """This model with the tables of tokens whole on each device of a mesh, in the type of the compute.

        Left to itself the partitioner sends the activations around instead, several times a step.
        """
        params, dtype = params_of(self), layers.compute_dtype(self.config.dtype)
        for name in {"table", "head"} & params.keys():
            params[name] = sharding.constrain(params[name].astype(dtype), None, None)
        return with_params(self, params)

    @staticmethod
    def counts(batch: Batch) -> Counts:
        """What each target stands for: the token's bytes; sentinels and padding stand for none."""
        bytes_BT = batch["bytes"].astype(jnp.float32)
        return Counts(bytes_BT, batch["ends"], jnp.zeros_like(bytes_BT))

    def embed(self, tokens_BT: jax.Array, position_BT: jax.Array) -> jax.Array:
        """The stream before the first layer, [B, T, D]."""
        c = self.config
        x_BTD = self.table[...][tokens_BT.astype(jnp.int32)].astype(layers.compute_dtype(c.dtype))
        if c.embedding_scale != 1.0:
            x_BTD = x_BTD * jnp.asarray(c.embedding_scale, x_BTD.dtype)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions[...][position_BT].astype(x_BTD.dtype)
        return x_BTD

    def turns(self, position_BT: jax.Array, length: int) -> tuple[jax.Array, jax.Array] | None:
        rope = self.config.rope
        return None if rope is None else rotary.turns(rope, self.config.H, position_BT, length)

    def logits(self, x_D: jax.Array) -> jax.Array:
        """What `read` gives, [..., D] -> float32 [..., V]."""
        return self._logits(self.norm(x_D))

    def _logits(self, z_D: jax.Array) -> jax.Array:
        """Normed [..., D] -> float32 [..., V]."""
        f32 = jnp.float32
        if self.head is None:
            table_VD = self.table[...].astype(z_D.dtype)
            logits_V = jnp.einsum("...D,VD->...V", z_D, table_VD, preferred_element_type=f32)
        else:
            logits_V = jnp.matmul(z_D, self.head[...].astype(z_D.dtype), preferred_element_type=f32)
        cap = self.config.logit_softcap
        return logits_V if cap is None else cap * jnp.tanh(logits_V / cap)

    def read(self, tokens_BT, documents_BT=None, dropout_key=None, keep: bool = False):
        """The stream after all layers [B, T, D], and if `keep`, each layer's keys and values [B, T, K, H].

        What is kept does not know how long its row will become, so "dynamic" positions stay unstretched.
        """
        c, T = self.config, tokens_BT.shape[1]
        position_1T = jnp.arange(T)[None]
        cos_sin = self.turns(position_1T, 0 if keep else T)
        documents_BT = documents_BT if c.isolate_documents else None
        keys = None if dropout_key is None else jax.random.split(dropout_key, c.layers)

        def layer(x_BTD, per_layer, window):
            block, key = per_layer
            x_BTD = sharding.constrain(x_BTD, "batch", None, None)
            q_BTNH, k_BTKH, v_BTKH = block.project(x_BTD, cos_sin)
            a_BTNH = _attend(c, q_BTNH, k_BTKH, v_BTKH, documents_BT, window)
            return block.finish(x_BTD, a_BTNH, key), (k_BTKH, v_BTKH) if keep else None

        x_BTD = self.embed(tokens_BT, position_1T)
        if isinstance(self.blocks, nnx.List):
            kept = []
            for i, block in enumerate(self.blocks):
                x_BTD, k_v = layer(x_BTD, (block, None if keys is None else keys[i]), c.window_of(i))
                kept.append(k_v)
            return x_BTD, kept

        # Windows that differ are data of the scan: the same program for each layer, another mask.
        mixed = c.window is not None and bool(c.full_layers)
        window_L = jnp.array([c.window_of(i) or T for i in range(c.layers)]) if mixed else None

        def scanned(x_BTD, per_layer):
            block, key, window = per_layer
            return layer(x_BTD, (block, key), window if mixed else c.window)

        if c.remat != "none":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            scanned = jax.checkpoint(scanned, policy=policy if c.remat == "dots" else None)
        return jax.lax.scan(scanned, x_BTD, (self.blocks, keys, window_L))

    @staticmethod
    def cuts(config: TokenLMConfig) -> dict[str, tuple[str, int]]:
        """Sizes that a mesh cuts: field of the config -> (name of `bytelm.sharding.RULES`, size)."""
        return {
            "heads": ("heads", config.heads),
            "key_heads": ("heads", config.K),
            "width": ("embed", config.width),
            "mlp_width": ("mlp", config.F),
        }

    @staticmethod
    def flops(config: TokenLMConfig, length: int) -> float:
        """Floating-point operations of the forward pass, a token, in rows of `length` tokens.

        Counted as `ByteTransformer.flops` counts them.
        """
        c = config
        matrices = c.width * c.H * 2 * (c.heads + c.K) + (3 if c.gated else 2) * c.width * c.F
        seen = 0.0
        for i in range(c.layers):
            w = min(c.window_of(i) or length, length)
            seen += (w * (w + 1) / 2 + (length - w) * w) / length
        return 2.0 * (c.layers * matrices + 2 * c.heads * c.H * seen + c.width * c.vocab_size)


def _attend(c: TokenLMConfig, q_BTNH, k_BTKH, v_BTKH, documents_BT, window):
    """Causal attention within rows; `window` is a number, None, or an array of one number."""
    if c.attention_softcap is None and not isinstance(window, jax.Array):
        q_BTNH = q_BTNH * jnp.asarray(c.scale * c.H**0.5, q_BTNH.dtype) if c.query_scale else q_BTNH
        return attend(q_BTNH, k_BTKH, v_BTKH, documents_BT, window)
    t = jnp.arange(q_BTNH.shape[1])
    mask_BTS = (t[:, None] >= t)[None]
    if window is not None:
        mask_BTS = mask_BTS & (t[:, None] - t < window)
    if documents_BT is not None:
        mask_BTS = mask_BTS & (documents_BT[:, :, None] == documents_BT[:, None, :])
    k_BKTH, v_BKTH = k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2)
    return attend_masked(q_BTNH, k_BKTH, v_BKTH, mask_BTS, c.scale, c.attention_softcap)


def unstack(params: Params) -> Params:
    """Parameters with stacked layers as those of the form with layers one by one."""
    count = len(jax.tree.leaves(params["blocks"])[0])
    blocks = {str(i): jax.tree.map(lambda x: x[i], params["blocks"]) for i in range(count)}  # noqa: B023
    return {**params, "blocks": blocks}
