"""ModernBERT with its masked-language-model head, on packed tokens.

Shapes: T tokens of a row, K masked positions, d hidden size, f inner width. Between the parallel
layers, heads and f are this rank's shard, and with sequence parallelism so are the tokens outside
attention and MLP. The module tree gives the parameters Hugging Face's names.
Architecture: ModernBERT (Warner et al. 2024), as in transformers' ModernBertForMaskedLM.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbert.model.config import EncoderConfig, check_parallel
from mmbert.model.packed_batch import PackedBatch, PackedSequenceInfo
from mmbert.parallel.gradient_hooks import all_reduce_partial_gradients
from mmbert.parallel.layers import (
    ColumnParallelLinear,
    IdentityNorm,
    LayerNorm,
    ReplicatedLinear,
    RowParallelLinear,
    TensorParallel,
    gather_all_tokens,
    gather_token_rows,
)
from mmbert.parallel.linear import InputRecompute
from mmbert.parallel.parameter_spec import name_parameters
from mmbert.parallel.process_grid import TensorGroup
from mmbert.parallel.vocab_layers import VocabParallelDecoder, VocabParallelEmbedding
from mmbert.recipe import RotaryBases
from mmbert_kernels import Dropout, geglu, rotary_attention


class Attention(nn.Module):
    """Multi-head self-attention within documents, global or in the local window."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel, index: int) -> None:
        super().__init__()
        d, self.head_size = config.hidden_size, config.head_size
        self.is_global = config.attends_globally(index)
        self.window = None if self.is_global else config.local_window
        self.Wqkv = ColumnParallelLinear(
            d, (d, d, d), parallel, granularity=self.head_size, std=config.initializer_range
        )
        self.Wo = RowParallelLinear(
            d, d, parallel, granularity=self.head_size, std=residual_init_std(config)
        )

    def forward(
        self, x: Tensor, info: PackedSequenceInfo, *, recompute_input: InputRecompute | None
    ) -> Tensor:
        """[T, d] -> [T, d]; positions restart at every document."""
        qkv = self.Wqkv(x, recompute_input=recompute_input)
        qkv = qkv.view(qkv.shape[0], 3, -1, self.head_size)
        base = info.rotary_bases.global_ if self.is_global else info.rotary_bases.local_
        out = rotary_attention(
            qkv, info.cu_seqlens, info.max_seqlen, self.window, base, causal=info.causal
        )
        return self.Wo(out.flatten(1))


class MLP(nn.Module):
    """Gated MLP: GELU of the first half times the second half."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.recompute = config.recompute == "selective"
        self.Wi = ColumnParallelLinear(d, (f, f), parallel, std=config.initializer_range)
        self.Wo = RowParallelLinear(f, d, parallel, std=residual_init_std(config))

    def forward(self, x: Tensor, *, recompute_input: InputRecompute | None) -> Tensor:
        """[T, d] -> [T, d]."""
        both = self.Wi(x, recompute_input=recompute_input)
        return self.Wo(
            geglu(both), recompute_input=InputRecompute(geglu, both) if self.recompute else None
        )


class Layer(nn.Module):
    """Pre-norm attention and MLP; the first attention takes the embedding norm's output."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel, index: int) -> None:
        super().__init__()
        self.index = index
        self.attn_norm = norm(config, parallel) if index else IdentityNorm()
        self.attn = Attention(config, parallel, index)
        self.mlp_norm = norm(config, parallel)
        self.mlp = MLP(config, parallel)

    def forward(
        self, update: Tensor | None, hidden: Tensor, info: PackedSequenceInfo
    ) -> tuple[Tensor, Tensor]:
        """Return (update, hidden); the residual stream is their sum, computed in the next norm."""
        normed, hidden = self.attn_norm.add_norm(hidden, update)
        update = self.attn(normed, info, recompute_input=self.attn_norm.recompute_input(hidden))
        dropout = None
        if info.dropout_seed is not None and info.dropout > 0:
            # A different seed for every layer; the operation hashes it.
            dropout = Dropout(
                info.dropout, (info.dropout_seed << 16) + self.index, info.first_token
            )
        normed, hidden = self.mlp_norm.add_norm(hidden, update, dropout=dropout)
        del update  # free its memory for the MLP
        return self.mlp(normed, recompute_input=self.mlp_norm.recompute_input(hidden)), hidden


class Embeddings(nn.Module):
    """Token embeddings and their norm, without positions or token types."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel) -> None:
        super().__init__()
        self.tok_embeddings = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, parallel, std=config.initializer_range
        )
        self.norm = norm(config, parallel)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64[T] -> [T, d]."""
        if self.tok_embeddings.is_sharded:
            return self.norm.norm(self.tok_embeddings(input_ids))
        embeddings: Tensor = self.tok_embeddings(input_ids, lookup=self.norm.embed_norm)
        return embeddings


class Encoder(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel) -> None:
        super().__init__()
        self.recompute = config.recompute == "full"
        self.embeddings = Embeddings(config, parallel)
        self.layers = nn.ModuleList(
            Layer(config, parallel, index) for index in range(config.num_hidden_layers)
        )
        self.final_norm = norm(config, parallel)

    def forward(self, input_ids: Tensor, info: PackedSequenceInfo) -> Tensor:
        """int64[T] -> the normed last hidden states [T, d]."""
        return self.encode(self.embeddings(input_ids), info)

    def encode(
        self, hidden: Tensor, info: PackedSequenceInfo, *, states: list[Tensor] | None = None
    ) -> Tensor:
        """Run the layers and the final norm on normed embeddings: [T, d] -> [T, d].

        `states`, if given, receives the residual stream [T, d] before every layer and after the
        last one, before the final norm.
        """
        update = None
        for layer in self.layers:
            recompute = self.recompute and torch.is_grad_enabled()
            if update is not None and (recompute or states is not None):
                # Add now, so that only one tensor per layer is saved, or to hand the sum out.
                hidden, update = hidden + update, None
            if states is not None:
                states.append(hidden)
            if recompute:
                # The RNG state need not be saved, because dropout is counter-based.
                update, hidden = checkpoint(
                    layer, None, hidden, info, use_reentrant=False, preserve_rng_state=False
                )
            else:
                update, hidden = layer(update, hidden, info)
        normed, total = self.final_norm.add_norm(hidden, update)
        if states is not None:
            states.append(total)
        return normed


class PredictionHead(nn.Module):
    """Dense layer, GELU and norm before the decoder, on masked positions; replicated."""

    def __init__(self, config: EncoderConfig, parallel: TensorParallel) -> None:
        super().__init__()
        d = config.hidden_size
        self.dense = ReplicatedLinear(d, d, parallel, std=config.initializer_range)
        self.norm = LayerNorm(d, parallel, eps=config.norm_eps, sequence_parallel=False)

    def forward(self, x: Tensor) -> Tensor:
        """[K, d] -> [K, d]."""
        return self.norm.norm(nn.functional.gelu(self.dense(x)))


class MaskedLanguageModel(nn.Module):
    """Encoder with prediction head and tied decoder.

    Parameters are this rank's shards, uninitialized (see initialization.py), on the default device
    and in the default dtype; they may be cast and moved. UserError if the sizes are not divisible
    by the group's size.
    """

    def __init__(
        self, config: EncoderConfig, tensor_group: TensorGroup, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        check_parallel(
            config, tensor_parallel=tensor_group.size, sequence_parallel=sequence_parallel
        )
        self.config, self.group = config, tensor_group
        self.parallel = TensorParallel(tensor_group, sequence_parallel)
        self.model = Encoder(config, self.parallel)
        self.head = PredictionHead(config, self.parallel)
        self.decoder = VocabParallelDecoder(self.model.embeddings.tok_embeddings)
        name_parameters(self)
        self.gradient_hooks = all_reduce_partial_gradients(self, tensor_group)

    def forward(
        self,
        batch: PackedBatch,
        *,
        rotary_bases: RotaryBases,
        dropout_seed: int | None,
        dropout: float | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Compute float32 losses [K] at the masked positions, 0 where the weight is 0.

        The upstream gradient of the losses must be the same for all, as for their sum or mean.

        Args:
            batch: the packed row.
            rotary_bases: RoPE bases of global and local layers.
            dropout_seed: seed of the masks; None disables dropout. All rows can share a seed,
                because the masks also depend on the tokens' indices in the training run.
            dropout: dropout probability of attention's output; default: the configuration's.
            causal: whether tokens attend to no later ones, as in a phase that predicts next tokens.
        """
        hidden = self._encode(batch, rotary_bases, dropout_seed, dropout, causal=causal)
        masked = gather_token_rows(hidden, batch.masked_positions, self.parallel)
        return self.decoder(self.head(masked), batch.labels, batch.weights)

    @torch.no_grad()
    def logits(
        self,
        batch: PackedBatch,
        *,
        rotary_bases: RotaryBases,
        all_tokens: bool = False,
        causal: bool = False,
    ) -> Tensor:
        """Compute float32 logits on every rank: [K, vocabulary] at the masked positions.

        With `all_tokens`: [T, vocabulary] at all positions. `causal`: see `forward`.
        """
        hidden = self._encode(batch, rotary_bases, None, causal=causal)
        positions = batch.masked_positions
        if all_tokens:
            positions = torch.arange(batch.input_ids.shape[0], device=hidden.device)
        return self.decoder(self.head(gather_token_rows(hidden, positions, self.parallel)))

    def hidden_states(self, batch: PackedBatch, *, rotary_bases: RotaryBases) -> Tensor:
        """Compute the normed last hidden states [T, d] on every rank, without dropout.

        Their gradient must be the same on all ranks of the group.
        """
        return gather_all_tokens(self._encode(batch, rotary_bases, None), self.parallel)

    def _encode(
        self,
        batch: PackedBatch,
        rotary_bases: RotaryBases,
        dropout_seed: int | None,
        dropout: float | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        tokens = batch.input_ids.shape[0]
        first_token = batch.row_index * tokens + self.parallel.token_offset(tokens)
        info = PackedSequenceInfo(
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
            rotary_bases=rotary_bases,
            dropout=self.config.attention_output_dropout if dropout is None else dropout,
            dropout_seed=dropout_seed,
            first_token=first_token,
            causal=causal,
        )
        return self.model(batch.input_ids, info)


def norm(config: EncoderConfig, parallel: TensorParallel) -> LayerNorm:
    """Create a norm of the residual stream."""
    return LayerNorm(
        config.hidden_size,
        parallel,
        eps=config.norm_eps,
        sequence_parallel=parallel.sequence,
        recompute=config.recompute == "selective",
    )


def residual_init_std(config: EncoderConfig) -> float:
    """Return the initial std of linears that write to the residual stream (Megatron)."""
    return config.initializer_range / math.sqrt(2 * config.num_hidden_layers)
