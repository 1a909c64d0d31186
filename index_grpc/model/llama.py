"""The Llama forward pass with PyTorch, over the tokens of a batch.

The tokens of all sequences are rows of one matrix; only attention needs to know which belong together. T is the number
of tokens, H the number of query heads, K that of key-value heads, D the size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.machine import processor_name
from index_grpc.model.attention import Attend, attention
from index_grpc.model.config import ModelConfig
from index_grpc.model.drawing import draw
from index_grpc.model.linear import Linear, LinearKind, agrees, linear_kinds, rows_are_independent
from index_grpc.model.rows import RowCache, RowPlace
from index_grpc.model.weights import LayerWeights, LlamaWeights


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: attention, then feed-forward; each reads normed hidden states and adds its result to them."""

    config: ModelConfig
    input_norm: Tensor
    qkv: Linear
    output: Linear
    post_attention_norm: Tensor
    gate_up: Linear
    down: Linear

    @classmethod
    def from_weights(cls, layer: LayerWeights, config: ModelConfig, kind: LinearKind) -> "Layer":
        """Fuses the projections that read the same input."""
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            config=config,
            input_norm=layer.input_layernorm.weight,
            qkv=kind(attention.fused()),
            output=kind(attention.o_proj.weight),
            post_attention_norm=layer.post_attention_layernorm.weight,
            gate_up=kind(mlp.fused()),
            down=kind(mlp.down_proj.weight),
        )

    def forward(self, index: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Maps hidden states [T, hidden_size] to new ones of the same shape."""
        config, num_tokens = self.config, hidden.shape[0]
        num_rotated = config.num_heads + config.num_kv_heads
        qkv = self.qkv(self._norm(hidden, self.input_norm))
        heads = qkv.view(num_tokens, num_rotated + config.num_kv_heads, config.head_dim)  # [T, H + 2K, D]
        rotate(heads[:, :num_rotated], rotary)
        queries, keys_values = heads[:, : config.num_heads], heads[:, config.num_heads :]
        mixed = attend(index, queries, keys_values.view(num_tokens, 2, config.num_kv_heads, config.head_dim))
        hidden = hidden + self.output(mixed.reshape(num_tokens, config.num_heads * config.head_dim))
        gate, up = self.gate_up(self._norm(hidden, self.post_attention_norm)).chunk(2, dim=-1)
        return hidden + self.down(functional.silu(gate) * up)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.config.rms_norm_eps)


class TorchLlama:
    """A model ready to compute: fused weights in one dtype on one device.

    `rows_independent` tells whether tokens computed together get the same bits as alone; if it is false, the caller
    must compute one sequence at a time to keep answers independent of each other.
    """

    cuts_independent = False
    """A token's last bits depend on how the prompt was cut into chunks."""
    answers_like_prompts = False
    draw = staticmethod(draw)

    def __init__(self, config: ModelConfig, weights: LlamaWeights, kind: LinearKind, rows_independent: bool) -> None:
        """Takes over the weights, one layer at a time, so that memory never holds a second copy of all of them."""
        body, self.config, self.rows_independent = weights.model, config, rows_independent
        self.embedding: Tensor = body.embed_tokens.weight
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self.block_tokens = config.context_length
        self.layers = [Layer.from_weights(layer, config, kind) for layer in weights.take_layers()]
        self.final_norm: Tensor = body.norm.weight
        self.head = kind(weights.lm_head.weight)
        self.rotary = rotary_tables(config, self.device, self.dtype)
        self.software = f"PyTorch {torch.__version__}"
        self.arithmetic = f"pytorch {kind.__name__} {torch.get_num_threads()} threads on {processor_name()}"
        self.weights_digest = weights.digest

    def new_cache(self) -> RowCache:
        """Returns an empty cache for this model's keys and values."""
        return RowCache(self.config, self.device, self.dtype)

    @torch.inference_mode()
    def forward(self, token_ids: Sequence[int], places: Sequence[RowPlace], sampled: Sequence[int]) -> Tensor:
        """Computes T tokens, whose places are `places` in order, and stores their keys and values there.

        Returns the logits [S, vocab_size], float32, after S of the tokens. `sampled` has their different, ascending row
        numbers.
        """
        positions = self._tensor([position for place in places for position in range(place.start, place.end)])
        rotary = (self.rotary[0][positions], self.rotary[1][positions])
        attend = attention(places, grouped=self.config.num_heads != self.config.num_kv_heads)
        hidden = functional.embedding(self._tensor(token_ids), self.embedding)
        for index, layer in enumerate(self.layers):
            hidden = layer.forward(index, hidden, rotary, attend)
        return self._logits(hidden[self._tensor(sampled)])

    def _logits(self, hidden: Tensor) -> Tensor:
        normed = functional.rms_norm(hidden, self.final_norm.shape, self.final_norm, self.config.rms_norm_eps)
        return self.head(normed).float() if len(normed) else normed.new_empty(0, self.config.vocab_size)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


def rotary_tables(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every position's angles, [context_length, 1, D] each; computes in float32."""
    angles = rotary_angles(config)
    both_halves = torch.cat([angles, angles], dim=-1)[:, None, :]
    return both_halves.cos().to(device, dtype), both_halves.sin().to(device, dtype)


def rotary_angles(config: ModelConfig) -> Tensor:
    """Returns the angles that rotate each pair of a head at every position, [context_length, D / 2], float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents  # [D / 2]
    return torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequencies)


def rotate(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
    """Rotates heads [T, N, D] by their positions' angles, in place, in the half-split layout."""
    cosine, sine = rotary
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    torch.add(heads * cosine, turned * sine, out=heads)


def choose_kind(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, most_rows: int
) -> tuple[LinearKind, bool]:
    """Returns the fastest product that is right for these shapes, and whether rows are independent with it.

    Tests one layer and the head with random weights, in batches of up to `most_rows` rows.
    """
    layer = LayerWeights(config).to(device, dtype)
    head = torch.randn(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
    usable = [kind for kind in linear_kinds(device, dtype) if agrees(kind, layer.mlp.down_proj.weight)]
    for kind in usable:
        tried = (_alone(Layer.from_weights(layer, config, kind), head), kind(head))
        if all(rows_are_independent(function, config.hidden_size, head, most_rows) for function in tried):
            return kind, True
    return usable[0], False


def _alone(layer: Layer, like: Tensor) -> Linear:
    """Returns a layer without its attention as a function of hidden states."""
    angle = torch.ones(1, device=like.device, dtype=like.dtype)
    rotary = (angle.cos(), angle.sin())
    return lambda hidden: layer.forward(0, hidden, rotary, _no_attention)


def _no_attention(_layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
    """Replaces attention while the rest of a layer is tested."""
    return queries + keys_values[:, 0].mean(dim=1, keepdim=True)
