"""The Mixture-of-Transformers stack: two experts a layer, one joint attention (BAGEL).

The und expert handles text and ViT tokens, the gen expert latent tokens. A row is two static
blocks [und | gen], so routing is choosing the block: nothing is gathered or scattered. Every
token of a row attends over both blocks in one softmax; everything else is done by its expert.
A model with one expert (`LLMConfig.experts`) is the same stack with an empty gen block.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unireason_jax.models.attention import CachedKeys, Keys, Queries, attend
from unireason_jax.models.layers import Projection, RMSNorm, rotary, rotate, stacked
from unireason_jax.models.sizes import LLMConfig
from unireason_jax.pods.sharding import constrain
from unireason_jax.rules.visibility import Visibility


class Past(NamedTuple):
    """Cached keys and values [L, B, K, S, H] and their visibility ids [B, S] int32."""

    k: jax.Array
    v: jax.Array
    ids: jax.Array


class Expert(nnx.Module):
    """The weights one kind of token meets in one layer: attention projections and gated MLP."""

    def __init__(self, config: LLMConfig, dtype: str):
        """Biases on queries, keys and values at most (Qwen2 has them, LLaMA does not)."""
        c = config
        made = {"dtype": dtype}
        into = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        deep = (2 * c.layers) ** -0.5
        self.attention_norm = RMSNorm(c.width, axis="embed", eps=c.norm_eps)
        biased = {"bias": c.qkv_bias, **made}
        self.query = Projection((c.width,), (c.heads, c.head_dim), axes=into[0], **biased)
        self.key = Projection((c.width,), (c.kv_heads, c.head_dim), axes=into[1], **biased)
        self.value = Projection((c.width,), (c.kv_heads, c.head_dim), axes=into[1], **biased)
        norm = c.qk_norm and {"axis": "head_dim", "eps": c.norm_eps}
        self.query_norm = RMSNorm(c.head_dim, **norm) if norm else None
        self.key_norm = RMSNorm(c.head_dim, **norm) if norm else None
        self.out = Projection(
            (c.heads, c.head_dim),
            (c.width,),
            axes=("heads", "head_dim", "embed"),
            scale=deep,
            **made,
        )
        self.mlp_norm = RMSNorm(c.width, axis="embed", eps=c.norm_eps)
        self.gate = Projection((c.width,), (c.mlp,), axes=("embed", "mlp"), **made)
        self.up = Projection((c.width,), (c.mlp,), axes=("embed", "mlp"), **made)
        self.down = Projection((c.mlp,), (c.width,), axes=("mlp", "embed"), scale=deep, **made)

    def heads(
        self, x: jax.Array, turn: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, T, D] -> q [B, T, N, H], k and v [B, T, K, H]; q and k normed and rotated."""
        x = self.attention_norm(x)
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return rotate(q, *turn).astype(v.dtype), rotate(k, *turn).astype(v.dtype), v

    def mlp(self, x: jax.Array) -> jax.Array:
        """silu(gate) * up, down: [B, T, D] -> [B, T, D]."""
        x = self.mlp_norm(x)
        hidden = jax.nn.silu(self.gate(x)) * self.up(x)
        return self.down(constrain(hidden, "batch", "length", "mlp"))


class Block(nnx.Module):
    """One layer: its experts and the attention that joins them."""

    def __init__(self, config: Any):
        """Two experts of the same shape; or one, and then the gen stream is empty."""
        self.und = Expert(config.llm, config.dtype)
        self.gen = Expert(config.llm, config.dtype) if config.llm.experts == 2 else None
        self.attention = {"backend": config.attention, "chunk": config.chunk}

    def __call__(
        self,
        und: jax.Array,
        gen: jax.Array,
        *,
        turn: tuple[jax.Array, jax.Array],
        visibility: Visibility,
        past: CachedKeys | None,
        detach_und: bool,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
        """Residual streams [B, Tu, D] and [B, Tg, D] float32 -> the same, and the new keys."""
        split = und.shape[1]
        sides = [
            (self.und, und, slice(None, split), detach_und),
            (self.gen, gen, slice(split, None), False),
        ]
        sides = [side for side in sides if side[1].shape[1]]
        qs, ks, vs = [], [], []
        for expert, x, part, detach in sides:
            with jax.named_scope(_name(expert, self)):
                heads = expert.heads(x, tuple(c[:, part] for c in turn))
                q, k, v = (_held(h, detach) for h in heads)
            qs.append(constrain(q, "batch", "length", "heads", None))
            ks.append(k)
            vs.append(v)
        k, v = (jnp.concatenate(x, axis=1) if len(x) > 1 else x[0] for x in (ks, vs))
        k, v = (constrain(x, "batch", None, "kv_heads", None) for x in (k, v))
        keys = Keys(k, v, visibility.key)
        outs = []
        for (expert, x, part, detach), q in zip(sides, qs):
            with jax.named_scope(_name(expert, self)):
                seen = Queries(*(ids[:, part] for ids in visibility[1:]))
                mixed = attend(q, seen, keys, past, **self.attention)
                x = x + _held(expert.out(mixed), detach)
                x = x + _held(expert.mlp(x), detach)
                outs.append(constrain(x, "batch", "length", None))
        und, gen = outs if len(outs) == 2 else (outs[0], gen) if split else (und, outs[0])
        return und, gen, (k, v)


class Stack(nnx.Module):
    """All layers and the final norm of each expert.

    Layers are stacked on axis 0 and run by a scan, or (`Policies.apart`) a list.
    """

    def __init__(self, config: Any):
        """Layers are initialised independently."""
        self.config = config
        layers = config.llm.layers
        if config.apart:
            self.blocks = nnx.List([Block(config) for _ in range(layers)])
        else:
            self.blocks = stacked(lambda: Block(config), layers)
        norm, two = {"axis": "embed", "eps": config.llm.norm_eps}, config.llm.experts == 2
        self.und_norm = RMSNorm(config.llm.width, **norm)
        self.gen_norm = RMSNorm(config.llm.width, **norm) if two else None

    def __call__(
        self,
        und: jax.Array,
        gen: jax.Array,
        positions: jax.Array,
        visibility: Visibility,
        *,
        past: Past | None = None,
        detach_und: bool = False,
        keep_kv: bool = True,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None]:
        """See `Trunk.decode`."""
        llm = self.config.llm
        turn = rotary(positions, llm.head_dim, llm.rope_theta)
        carry = _held(und.astype(jnp.float32), detach_und), gen.astype(jnp.float32)

        def body(carry: Any, layer: Any) -> tuple[Any, Any]:
            block, cached = layer
            keys = None if past is None else CachedKeys(*cached, past.ids)
            *carry, kv = block(
                *carry, turn=turn, visibility=visibility, past=keys, detach_und=detach_und
            )
            return tuple(carry), kv if keep_kv else None

        cached = None if past is None else (past.k, past.v)
        with jax.named_scope("layers"):
            body = remat(body, self.config.remat)
            if self.config.apart:
                (und, gen), kv = _in_turn(body, carry, self.blocks, cached)
            else:
                scanned, unroll = (self.blocks, cached), self.config.unroll
                (und, gen), kv = jax.lax.scan(body, carry, scanned, unroll=unroll)
        gen = gen if self.gen_norm is None else self.gen_norm(gen)
        return _held(self.und_norm(und), detach_und), gen, kv


def remat(body: Callable, policy: str) -> Callable:
    """Wraps a scan body so that the backward pass recomputes what the policy does not keep."""
    if policy == "none":
        return body
    known = jax.checkpoint_policies
    attention = known.save_only_these_names("attention")
    policies = {
        "full": None,
        "save_attention": attention,
        "save_matmuls": known.save_from_both_policies(
            attention, known.dots_with_no_batch_dims_saveable
        ),
    }
    return jax.checkpoint(body, policy=policies[policy], prevent_cse=False)


def _in_turn(body: Callable, carry: Any, blocks: Any, cached: Any) -> tuple[Any, Any]:
    """What a scan over (blocks, cached) gives, from blocks that are not stacked.

    A program is traced and lowered for one layer, which it calls again and again.
    """
    kept, once = [], jax.jit(body)
    for layer, block in enumerate(blocks):
        carry, kv = once(carry, (block, jax.tree.map(operator.itemgetter(layer), cached)))
        kept.append(kv)
    return carry, jax.tree.map(lambda *layers: jnp.stack(layers), *kept)


def _held(x: jax.Array, detach: bool) -> jax.Array:
    """The value; with detach, as a constant for the backward pass."""
    return jax.lax.stop_gradient(x) if detach else x


def _name(expert: Expert, block: Block) -> str:
    """The profile's name of an expert."""
    return "und" if expert is block.und else "gen"
