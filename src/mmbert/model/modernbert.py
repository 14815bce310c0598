"""ModernBERT with its masked-language-model head, on packed tokens.

Shapes: T tokens of a row, K masked positions, d hidden size, H heads, D head size, f inner width.
Between the parallel layers H and f are this rank's share, and with sequence parallelism the tokens
outside attention and MLP too. The tree of modules gives the parameters Hugging Face's names.
Architecture: Warner et al. 2024 (ModernBERT), as in transformers' ModernBertForMaskedLM.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbert.model.batch import PackedBatch
from mmbert.model.config import EncoderConfig, check_parallel
from mmbert.parallel.description import name_parameters
from mmbert.parallel.gradients import sum_partial_gradients
from mmbert.parallel.grid import TensorGroup
from mmbert.parallel.layers import (
    ColumnParallelLinear,
    LayerNorm,
    ReplicatedLinear,
    RowParallelLinear,
    VocabParallelDecoder,
    VocabParallelEmbedding,
    gather_all_tokens,
    gather_token_rows,
)
from mmbert.parallel.linear import Rebuild
from mmbert.recipe import RotaryBases
from mmbert_kernels import attention, dropout_add, geglu, rotary


@dataclass(frozen=True)
class Row:
    """What the layers must know of the row that they work on."""

    cu_seqlens: Tensor
    max_seqlen: int
    rotary_bases: RotaryBases
    dropout_seed: int | None
    first_token: int
    """The number of this rank's first token in the whole training run."""


class Attention(nn.Module):
    """Multi-head self-attention within documents, global or within the local window."""

    def __init__(
        self, config: EncoderConfig, group: TensorGroup, index: int, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        d = config.hidden_size
        self.head_size, self.is_global = config.head_size, config.attends_globally(index)
        self.window = None if self.is_global else config.local_window
        self.Wqkv = ColumnParallelLinear(
            d,
            (d, d, d),
            group,
            unit=config.head_size,
            standard_deviation=config.initializer_range,
            sequence_parallel=sequence_parallel,
        )
        self.Wo = RowParallelLinear(
            d,
            d,
            group,
            unit=config.head_size,
            standard_deviation=output_deviation(config),
            sequence_parallel=sequence_parallel,
        )

    def forward(self, x: Tensor, row: Row, *, rebuild: Rebuild | None) -> Tensor:
        """[T, d] -> [T, d]."""
        qkv = self.Wqkv(x, rebuild=rebuild)
        qkv = qkv.view(qkv.shape[0], 3, -1, self.head_size)
        base = row.rotary_bases.global_ if self.is_global else row.rotary_bases.local_
        qkv = rotary(qkv, row.cu_seqlens, base)
        out = attention(qkv, row.cu_seqlens, row.max_seqlen, self.window)
        return self.Wo(out.flatten(1))


class MLP(nn.Module):
    """The gated unit: GELU of the first half times the second half."""

    def __init__(
        self, config: EncoderConfig, group: TensorGroup, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        d, f = config.hidden_size, config.intermediate_size
        self.recompute = config.recompute == "selective"
        self.Wi = ColumnParallelLinear(
            d,
            (f, f),
            group,
            standard_deviation=config.initializer_range,
            sequence_parallel=sequence_parallel,
        )
        self.Wo = RowParallelLinear(
            f,
            d,
            group,
            standard_deviation=output_deviation(config),
            sequence_parallel=sequence_parallel,
        )

    def forward(self, x: Tensor, *, rebuild: Rebuild | None) -> Tensor:
        """[T, d] -> [T, d]."""
        both = self.Wi(x, rebuild=rebuild)
        return self.Wo(geglu(both), rebuild=Rebuild(geglu, both) if self.recompute else None)


class Layer(nn.Module):
    """Pre-norm attention and MLP. The first layer's attention takes the embedding norm's output."""

    def __init__(
        self, config: EncoderConfig, group: TensorGroup, index: int, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        self.index, self.dropout = index, config.attention_output_dropout
        self.recompute = config.recompute == "selective"
        self.attn_norm = (
            nn.Identity() if index == 0 else norm(config, group, sharded=sequence_parallel)
        )
        self.attn = Attention(config, group, index, sequence_parallel=sequence_parallel)
        self.mlp_norm = norm(config, group, sharded=sequence_parallel)
        self.mlp = MLP(config, group, sequence_parallel=sequence_parallel)

    def forward(self, update: Tensor | None, hidden: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """The residual stream is update + hidden; their sum is fused into the next norm."""
        if isinstance(self.attn_norm, LayerNorm):
            normed, hidden = self.attn_norm(hidden, update)
        else:
            normed = hidden
        update = self.attn(normed, row, rebuild=self._rebuild(self.attn_norm, hidden))
        if row.dropout_seed is None:
            normed, hidden = self.mlp_norm(hidden, update)
        else:
            # Another seed for every layer; the operation mixes it well.
            seed = (row.dropout_seed << 16) + self.index
            hidden = dropout_add(update, hidden, self.dropout, seed, first_token=row.first_token)
            normed, hidden = self.mlp_norm(hidden)
        return self.mlp(normed, rebuild=self._rebuild(self.mlp_norm, hidden)), hidden

    def _rebuild(self, norm: nn.Module, hidden: Tensor) -> Rebuild | None:
        if self.recompute and isinstance(norm, LayerNorm):
            return norm.rebuild(hidden)
        return None


class Embeddings(nn.Module):
    """Token embeddings and their norm; no positions, no token types."""

    def __init__(
        self, config: EncoderConfig, group: TensorGroup, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        self.tok_embeddings = VocabParallelEmbedding(
            config.vocab_size,
            config.hidden_size,
            group,
            standard_deviation=config.initializer_range,
            sequence_parallel=sequence_parallel,
        )
        self.norm = norm(config, group, sharded=sequence_parallel)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64[T] -> [T, d]."""
        normed, _ = self.norm(self.tok_embeddings(input_ids))
        return normed


class Encoder(nn.Module):
    """Embeddings, layers and the final norm."""

    def __init__(
        self, config: EncoderConfig, group: TensorGroup, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        self.recompute = config.recompute == "full"
        self.embeddings = Embeddings(config, group, sequence_parallel=sequence_parallel)
        self.layers = nn.ModuleList(
            Layer(config, group, index, sequence_parallel=sequence_parallel)
            for index in range(config.num_hidden_layers)
        )
        self.final_norm = norm(config, group, sharded=sequence_parallel)

    def forward(self, input_ids: Tensor, row: Row) -> Tensor:
        """int64[T] -> the normed last hidden states [T, d]."""
        update, hidden = None, self.embeddings(input_ids)
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                # Add now, so that one tensor is kept a layer. No generator's state need be kept,
                # as dropout is counter-based.
                hidden = hidden if update is None else hidden + update
                update, hidden = checkpoint(
                    layer, None, hidden, row, use_reentrant=False, preserve_rng_state=False
                )
            else:
                update, hidden = layer(update, hidden, row)
        normed, _ = self.final_norm(hidden, update)
        return normed


class PredictionHead(nn.Module):
    """What comes before the decoder, on masked positions alone: every rank computes all of it."""

    def __init__(self, config: EncoderConfig, group: TensorGroup) -> None:
        super().__init__()
        self.dense = ReplicatedLinear(
            config.hidden_size,
            config.hidden_size,
            group,
            standard_deviation=config.initializer_range,
        )
        self.norm = norm(config, group, sharded=False)

    def forward(self, x: Tensor) -> Tensor:
        """[K, d] -> [K, d]."""
        normed, _ = self.norm(nn.functional.gelu(self.dense(x)))
        return normed


class MaskedLanguageModel(nn.Module):
    """The encoder with its head and the decoder tied to the embedding.

    Its parameters are this rank's shares, not initialised (see initialization.py), on the default
    device and in the default dtype; they may be cast and moved. UserError if the sizes do not
    divide by the group's.
    """

    def __init__(
        self, config: EncoderConfig, tensor_group: TensorGroup, *, sequence_parallel: bool
    ) -> None:
        super().__init__()
        check_parallel(
            config, tensor_parallel=tensor_group.size, sequence_parallel=sequence_parallel
        )
        self.config, self.group = config, tensor_group
        self.sequence_parallel = sequence_parallel
        self.model = Encoder(config, tensor_group, sequence_parallel=sequence_parallel)
        self.head = PredictionHead(config, tensor_group)
        self.decoder = VocabParallelDecoder(self.model.embeddings.tok_embeddings)
        name_parameters(self)
        self.gradient_hooks = sum_partial_gradients(self, tensor_group)

    def forward(
        self, batch: PackedBatch, *, rotary_bases: RotaryBases, dropout_seed: int | None
    ) -> Tensor:
        """float32 losses [K] of the masked tokens, 0 where the weight is 0.

        dropout_seed None: no dropout. The masks depend on the seed and the tokens' numbers in the
        whole run alone, so one seed serves every row. The gradient of the losses must be one
        number, as that of their sum or mean is.
        """
        hidden = self._hidden(batch, rotary_bases, dropout_seed)
        masked = gather_token_rows(
            hidden, batch.masked_positions, self.group, sequence_parallel=self.sequence_parallel
        )
        return self.decoder(self.head(masked), batch.labels, batch.weights)

    @torch.no_grad()
    def logits(
        self, batch: PackedBatch, *, rotary_bases: RotaryBases, all_tokens: bool = False
    ) -> Tensor:
        """Full float32 logits on every rank: [K, vocabulary] of the masked positions, or [T, …]."""
        hidden = self._hidden(batch, rotary_bases, None)
        positions = batch.masked_positions
        if all_tokens:
            positions = torch.arange(batch.input_ids.shape[0], device=hidden.device)
        rows = gather_token_rows(
            hidden, positions, self.group, sequence_parallel=self.sequence_parallel
        )
        return self.decoder(self.head(rows))

    @torch.no_grad()
    def hidden_states(self, batch: PackedBatch, *, rotary_bases: RotaryBases) -> Tensor:
        """The normed last hidden states [T, d] of every token, on every rank."""
        hidden = self._hidden(batch, rotary_bases, None)
        return gather_all_tokens(hidden, self.group, sequence_parallel=self.sequence_parallel)

    def _hidden(
        self, batch: PackedBatch, rotary_bases: RotaryBases, dropout_seed: int | None
    ) -> Tensor:
        tokens = batch.input_ids.shape[0]
        shard = tokens // self.group.size if self.sequence_parallel else 0
        row = Row(
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
            rotary_bases=rotary_bases,
            dropout_seed=dropout_seed,
            first_token=batch.row_index * tokens + self.group.rank * shard,
        )
        return self.model(batch.input_ids, row)


def norm(config: EncoderConfig, group: TensorGroup, *, sharded: bool) -> LayerNorm:
    """The one kind of norm that the model has."""
    return LayerNorm(config.hidden_size, group, eps=config.norm_eps, on_sharded_tokens=sharded)


def output_deviation(config: EncoderConfig) -> float:
    """Initial deviation of the linears that write to the residual stream (Megatron)."""
    return config.initializer_range / math.sqrt(2 * config.num_hidden_layers)
