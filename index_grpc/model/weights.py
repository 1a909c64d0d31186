"""Modules for the weights, with the names of a checkpoint; on the meta device until they are loaded."""

from collections.abc import Iterator

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from index_grpc.model.config import ModelConfig


class AttentionWeights(nn.Module):
    """The projections of one layer's attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def fused(self) -> Tensor:
        """Returns the projections that read the same input as one: queries, keys, values, [(H + 2K) D, hidden_size]."""
        return torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])


class MlpWeights(nn.Module):
    """The projections of one layer's feed-forward part."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def fused(self) -> Tensor:
        """Returns the projections that read the same input as one: gates, ups, [2 intermediate_size, hidden_size]."""
        return torch.cat([self.gate_proj.weight, self.up_proj.weight])


class LayerWeights(nn.Module):
    """The weights of one layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.self_attn = AttentionWeights(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size)
        self.mlp = MlpWeights(config)


class BodyWeights(nn.Module):
    """The weights of the embedding, the layers and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LayerWeights(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size)


class LlamaWeights(nn.Module):
    """The weights of the whole model. Holds only names and shapes until `checkpoint.load_weights` fills it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        with init_empty_weights():
            self.model = BodyWeights(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.requires_grad_(False)
        self.digest = ""
        """A digest of the checkpoint's weights, once they are loaded; see WeightSamples."""

    def take_layers(self) -> Iterator[LayerWeights]:
        """Yields each layer once and keeps no reference to it, so that few tensors exist twice."""
        layers = self.model.layers
        for position in range(len(layers)):
            layer = layers[position]
            assert isinstance(layer, LayerWeights)
            layers[position] = nn.Identity()
            yield layer
