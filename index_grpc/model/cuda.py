"""The model on the Triton kernels of `index_grpc.cuda`.

Prefill uses products for many rows, limited by arithmetic; decode uses products for few rows, limited by reading the
weights. In both a token has the same bits in any batch, and a prompt's token however the prompt is cut.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.cuda import TRITON_VERSION
from index_grpc.cuda.decode_attention import Rows, Scratch, decode_attention
from index_grpc.cuda.embedding import embed
from index_grpc.cuda.linear import Tiles, linear
from index_grpc.cuda.norm import Norm
from index_grpc.cuda.pool import BLOCK_TOKENS, BlockPool
from index_grpc.cuda.prefill_attention import Tokens, prefill_attention
from index_grpc.model.card import Card
from index_grpc.model.config import ModelConfig
from index_grpc.model.llama import rotary_angles
from index_grpc.model.weights import LayerWeights, LlamaWeights


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; projections that read the same input are fused."""

    input_norm: Norm
    qkv: Tensor
    output: Tensor
    post_attention_norm: Norm
    gate_up: Tensor
    down: Tensor

    @classmethod
    def from_weights(cls, layer: LayerWeights, eps: float) -> "Layer":
        """Fuses the projections that read the same input."""
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            Norm(layer.input_layernorm.weight, eps),
            attention.fused(),
            attention.o_proj.weight,
            Norm(layer.post_attention_layernorm.weight, eps),
            mlp.fused(),
            mlp.down_proj.weight,
        )


@dataclass(frozen=True, slots=True)
class Products:
    """The tiles of each product of a step."""

    qkv: Tiles
    output: Tiles
    gate_up: Tiles
    down: Tiles
    head: Tiles


class CudaLlama:
    """A model ready to compute, in bfloat16 or float32."""

    rows_independent = cuts_independent = True
    answers_like_prompts = False
    """Decode sums products in parts and attention in splits, in another order than prefill."""
    block_tokens = BLOCK_TOKENS

    def __init__(self, config: ModelConfig, weights: LlamaWeights) -> None:
        """Takes over the weights, one layer at a time, so that memory never holds a second copy of all of them.

        PyTorch keeps the memory that fusing frees, for other tensors, until it is told to return it to the system.
        """
        body, self.config = weights.model, config
        self.embedding: Tensor = body.embed_tokens.weight
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self.layers = [Layer.from_weights(layer, config.rms_norm_eps) for layer in weights.take_layers()]
        self.final_norm = Norm(body.norm.weight, config.rms_norm_eps)
        self.head: Tensor = weights.lm_head.weight
        self.software = f"Triton {TRITON_VERSION}, PyTorch {torch.__version__}"
        self.rotary = rotary_halves(config, self.device)
        self.card = Card.of(self.device)
        self.arithmetic, self.weights_digest = f"{self.card.name} triton{TRITON_VERSION}", weights.digest

    @property
    def overlaps(self) -> bool:
        """Whether its kernels may start before the kernels ahead of them have ended."""
        return self.card.overlaps

    def new_cache(self, num_blocks: int, num_slots: int) -> BlockPool:
        """Returns a KV cache of `num_blocks` blocks, which `num_slots` slots read."""
        config = self.config
        heads = (config.num_layers, config.num_kv_heads, config.head_dim)
        return BlockPool(
            num_blocks, num_slots, config.context_length, heads=heads, device=self.device, dtype=self.dtype
        )

    def decode(
        self,
        ids: Tensor,
        rows: Rows,
        last_ids: Tensor,
        cache: BlockPool,
        scratch: Scratch,
        products: Products,
        logits: Tensor,
    ) -> Tensor:
        """Fills and returns logits [M, vocab_size], float32, after one token in each of M rows."""
        config, overlaps, num_rows = self.config, self.overlaps, len(ids)
        num_heads = config.num_heads + 2 * config.num_kv_heads
        hidden = self._new(num_rows, config.hidden_size)
        qkv = self._new(num_rows, num_heads * config.head_dim)
        mixed = self._new(num_rows, config.num_heads * config.head_dim)
        active = self._new(num_rows, config.intermediate_size)
        embed(ids, rows.slots, last_ids, self.embedding, hidden, overlaps)
        following = [*(layer.qkv for layer in self.layers[1:]), self.head]
        for index, (layer, next_weight) in enumerate(zip(self.layers, following, strict=True)):
            self._product(hidden, layer.qkv, qkv, products.qkv, layer.output.view(1, -1), norm=layer.input_norm)
            heads = (qkv.view(num_rows, num_heads, -1), mixed.view(num_rows, config.num_heads, -1))
            decode_attention(index, heads[0], cache, rows, self.rotary, scratch, heads[1], overlaps)
            gates_and_ups = layer.gate_up.view(2, -1)
            self._product(mixed, layer.output, hidden, products.output, gates_and_ups, residual=hidden)
            norm, down = layer.post_attention_norm, layer.down.view(1, -1)
            self._product(hidden, layer.gate_up, active, products.gate_up, down, norm=norm, gated=True)
            self._product(active, layer.down, hidden, products.down, next_weight.view(1, -1), residual=hidden)
        return self._product(hidden, self.head, logits, products.head, norm=self.final_norm)

    def prefill(
        self, ids: Tensor, tokens: Tokens, ends: Tensor, cache: BlockPool, tiles: Tiles, logits: Tensor
    ) -> Tensor:
        """Fills and returns logits [S, vocab_size], float32, after the S of T prompt tokens in the rows `ends`."""
        config, num_tokens = self.config, len(ids)
        num_heads = config.num_heads + 2 * config.num_kv_heads
        hidden = torch.nn.functional.embedding(ids, self.embedding)
        qkv = self._new(num_tokens, num_heads * config.head_dim)
        mixed = self._new(num_tokens, config.num_heads * config.head_dim)
        active = self._new(num_tokens, config.intermediate_size)
        for index, layer in enumerate(self.layers):
            linear(hidden, layer.qkv, qkv, tiles, norm=layer.input_norm)
            heads = (qkv.view(num_tokens, num_heads, -1), mixed.view(num_tokens, config.num_heads, -1))
            prefill_attention(index, heads[0], cache, tokens, self.rotary, heads[1])
            linear(mixed, layer.output, hidden, tiles, residual=hidden)
            linear(hidden, layer.gate_up, active, tiles, norm=layer.post_attention_norm, gated=True)
            linear(active, layer.down, hidden, tiles, residual=hidden)
        return linear(hidden[ends], self.head, logits, tiles, norm=self.final_norm)

    def _product(
        self,
        inputs: Tensor,
        weight: Tensor,
        outputs: Tensor,
        tiles: Tiles,
        upcoming: Tensor | None = None,
        *,
        norm: Norm | None = None,
        gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        return linear(
            inputs, weight, outputs, tiles,
            sliced=True, norm=norm, gated=gated, residual=residual, overlaps=self.overlaps, upcoming=upcoming,
        )  # fmt: skip

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=self.dtype)


def rotary_halves(config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every position's angles, [context_length, D / 2] each, float32."""
    angles = rotary_angles(config)
    return angles.cos().to(device), angles.sin().to(device)
