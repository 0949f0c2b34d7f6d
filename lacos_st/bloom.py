"""A lean BLOOM: transformers' weights and names, computed on real tokens only.

Differs from `transformers.BloomModel` in how, not in what: linear layers and layer norms see the flat batch (ΣT, H);
attention goes sequence by sequence with one ALiBi bias for the whole batch; GELU is one fused kernel.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import dropout, gelu
from transformers import BloomConfig, BloomModel, BloomPreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from lacos_st.attention import Alibi, RaggedLayout, attend, padded_to_flat, ragged_layout
from lacos_st.bloom_layer import FrozenLayer, run_layer
from lacos_st.flat import restored
from lacos_st.product import frozen_product
from lacos_st.upstream import bloom_block, checkpointing_function


class LeanBloomBlock(nn.Module):
    """One BLOOM layer over a flat batch; its parameters are those of transformers' `BloomBlock`.

    Over a frozen base it runs as `bloom_layer.run_layer`. Where base weights are trained, or there is dropout, it is
    the same computation as plain modules.
    """

    gradient_checkpointing = False  # transformers sets it, and this function with it
    input_layernorm: nn.LayerNorm
    post_attention_layernorm: nn.LayerNorm
    self_attention: Any  # BloomAttention, whose linear layers may be peft's
    mlp: Any  # BloomMLP, likewise

    def __init__(self, config: BloomConfig, layer_idx: int):
        super().__init__()
        for name, module in bloom_block(config, layer_idx).named_children():
            self.add_module(name, module)
        self.post_layernorm_residual = config.apply_residual_connection_post_layernorm
        self.hidden_dropout = config.hidden_dropout

    def forward(self, hidden: torch.Tensor, layout: RaggedLayout, bias: Any) -> torch.Tensor:
        """One layer.

        Args:
            hidden: (ΣT, H), in the layout's sorted order.
            layout: of the batch.
            bias: what `attend` adds to the scores: ALiBi.

        Returns:
            (ΣT, H).
        """
        checkpoint = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        frozen = self._frozen()
        if frozen is not None:
            return run_layer(frozen, hidden, layout, bias, checkpoint=checkpoint)
        if checkpoint:
            return cast(torch.Tensor, checkpointing_function(self)(self._as_modules, hidden, layout, bias))
        return self._as_modules(hidden, layout, bias)

    def _frozen(self) -> FrozenLayer | None:
        """The weights for `run_layer`; None where it cannot be used."""
        attention, norms = self.self_attention, (self.input_layernorm, self.post_attention_layernorm)
        dropout = self.training and (self.hidden_dropout or attention.attention_dropout.p)
        if dropout or self.post_layernorm_residual or any(p.requires_grad for norm in norms for p in norm.parameters()):
            return None
        layers = (attention.query_key_value, attention.dense, self.mlp.dense_h_to_4h, self.mlp.dense_4h_to_h)
        products = [frozen_product(layer, training=self.training) for layer in layers]
        fused, dense, up, down = products
        if fused is None or dense is None or up is None or down is None:
            return None
        return FrozenLayer(norms, fused, dense, up, down, attention.num_heads, attention.inv_norm_factor)

    def _as_modules(self, hidden: torch.Tensor, layout: RaggedLayout, bias: Any) -> torch.Tensor:
        normed = self.input_layernorm(hidden)
        residual = normed if self.post_layernorm_residual else hidden
        hidden = residual + self._drop(self._attention(normed, layout, bias))
        normed = self.post_attention_layernorm(hidden)
        residual = normed if self.post_layernorm_residual else hidden
        inner = gelu(self.mlp.dense_h_to_4h(normed), approximate="tanh")
        return residual + self._drop(self.mlp.dense_4h_to_h(inner))

    def _attention(self, normed: torch.Tensor, layout: RaggedLayout, bias: Any) -> torch.Tensor:
        attention = self.self_attention
        fused = attention.query_key_value(normed).unflatten(-1, (attention.num_heads, 3, attention.head_dim))
        query, key, value = fused.unbind(2)
        rate = attention.attention_dropout.p if self.training else 0.0
        mixed = attend(query, key, value, layout, scale=attention.inv_norm_factor, bias=bias, dropout=rate)
        return cast(torch.Tensor, attention.dense(mixed.flatten(1)))

    def _drop(self, hidden: torch.Tensor) -> torch.Tensor:
        return dropout(hidden, self.hidden_dropout, self.training) if self.hidden_dropout else hidden


class BloomEncoder(BloomModel):
    """BLOOM as an encoder of sentences: `BloomModel`'s weights, no key-value cache, no work on padding.

    `config.alibi` chooses how ALiBi is rounded, see `alibi.Alibi`. "exact", the default, is the paper's
    definition (relative positions): in float32 the two agree to rounding; in bfloat16 it keeps a sentence's embedding
    independent of where its tokens would have stood in a padded batch. "reference" is transformers' rounding, the
    one to compare published half-precision scores with.
    """

    def __init__(self, config: BloomConfig):
        BloomPreTrainedModel.__init__(self, config)  # not BloomModel's: it would build the stock layers first
        self.embed_dim = config.hidden_size
        self.num_heads = config.n_head
        self.alibi: str = getattr(config, "alibi", "exact")
        self.word_embeddings = nn.Embedding(config.vocab_size, self.embed_dim)
        self.word_embeddings_layernorm = nn.LayerNorm(self.embed_dim, eps=config.layer_norm_epsilon)
        self.h = nn.ModuleList([LeanBloomBlock(config, layer_idx=i) for i in range(config.num_hidden_layers)])
        self.ln_f = nn.LayerNorm(self.embed_dim, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Encode a padded or a flat batch.

        Args:
            input_ids: int64 (B, T), or (1, ΣT) with `cu_seq_lens_q`.
            attention_mask: (B, T), non-zero for real tokens, padded on either side; None where all are real.
            inputs_embeds: (B, T, H) or (1, ΣT, H), instead of `input_ids`.
            cu_seq_lens_q: int32 (N + 1,), running sum of the sequences' lengths: marks a flat batch.
            output_hidden_states: also return the hidden states before each layer.
            return_dict: False for a plain tuple.
            **kwargs: ignored, but for those below.

        Returns:
            `last_hidden_state` in the shape of the input, (B, T, H) with zeros at padding, or (1, ΣT, H).

        Raises:
            ValueError: not exactly one of `input_ids` and `inputs_embeds`; or a key-value cache or attention weights
                are asked for, which an encoder on real tokens does not have.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if kwargs.get("past_key_values") is not None or kwargs.get("output_attentions") or kwargs.get("use_cache"):
            raise ValueError(
                "BloomEncoder has no key-value cache and no attention weights: use transformers' BloomModel"
            )
        tokens = input_ids if input_ids is not None else inputs_embeds
        assert tokens is not None
        rows, columns = tokens.shape[:2]
        index: torch.Tensor | None = None
        if cu_seq_lens_q is None:
            if attention_mask is None:
                attention_mask = torch.ones(rows, columns, dtype=torch.bool, device=tokens.device)
            index, cu_seq_lens_q = padded_to_flat(attention_mask)
        layout = ragged_layout(cu_seq_lens_q)

        flat = tokens.flatten(0, 1)
        source = _compose(index, layout.order)
        flat = flat if source is None else flat[source]
        embedded = self.word_embeddings(flat) if input_ids is not None else flat
        states = self._encode(embedded, layout, each_layer=bool(output_hidden_states))
        shaped = tuple(_restore(state, source, rows, columns) for state in states)
        if return_dict is False:
            return (shaped[-1], shaped) if output_hidden_states else shaped
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=shaped[-1], hidden_states=shaped if output_hidden_states else None
        )

    def _encode(self, embedded: torch.Tensor, layout: RaggedLayout, *, each_layer: bool) -> list[torch.Tensor]:
        """Hidden states (ΣT, H) after the last layer norm, and with `each_layer` those before each layer, first."""
        hidden = self.word_embeddings_layernorm(embedded)
        bias = Alibi(self.num_heads, layout.max_length, self.alibi, _product_dtype(hidden), hidden.device)
        states = []
        for block in self.h:
            if each_layer:
                states.append(hidden)
            hidden = block(hidden, layout, bias)
        return [*states, self.ln_f(hidden)]


def _compose(index: torch.Tensor | None, order: torch.Tensor | None) -> torch.Tensor | None:
    """index[order], where None stands for the identity."""
    if index is None or order is None:
        return index if order is None else order
    return index[order]


def _restore(state: torch.Tensor, source: torch.Tensor | None, rows: int, columns: int) -> torch.Tensor:
    """Put the sorted flat states (ΣT, H) back to the input's (rows, columns, H), zeros where there was no token."""
    return state.unflatten(0, (rows, columns)) if source is None else restored(state, source, rows, columns)


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype of queries and keys: autocast's where it is on, else the hidden states'."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype
