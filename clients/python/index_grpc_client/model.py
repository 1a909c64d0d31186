"""The server's description of its model, and the length of a prompt."""

from dataclasses import dataclass
from typing import Self

from index_grpc_client.v1 import chat_pb2


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The length of a prompt with its history."""

    prompt_tokens: int
    """Tokens of the prompt with its history, control tokens included."""
    remaining_tokens: int
    """Tokens left in the context for an answer; 0 if the prompt does not fit."""

    @classmethod
    def from_wire(cls, response: chat_pb2.CountTokensResponse) -> Self:
        """Copies the generated message."""
        return cls(response.prompt_tokens, response.remaining_tokens)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. `ChatOptions` explains the values."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float

    @classmethod
    def from_wire(cls, sampling: chat_pb2.SamplingParams) -> Self:
        """Copies the generated message."""
        return cls(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model, its limits and the defaults of options that are left unset."""

    model: str
    """The model's name: `demo`, a hub id, or a directory's name."""
    context_length: int
    """The most tokens that prompt, history and answer may have together."""
    default_sampling: Sampling
    default_max_tokens: int
    device: str
    """The device that computes the model, such as `cpu` or `cuda:0`."""
    dtype: str
    """The number format that the model is computed in, such as `float32` or `bfloat16`."""
    server_version: str
    num_parameters: int
    vocab_size: int
    max_sequences: int
    """The most calls that are computed at the same time."""
    max_waiting: int
    """The most calls that may wait besides those; the server refuses further ones."""
    quantization: str
    """How the weights are stored if that loses precision: `int8`; empty otherwise."""
    kv_cache_tokens: int
    """The most tokens whose keys and values fit into the memory that all calls share; 0 if the server does not say."""
    max_waiting_tokens: int
    """The most prompt tokens of all calls that have no generated token yet; 0 if the server does not say.

    The server refuses a call that would exceed this number, unless there is no other such call.
    """
    fingerprint: str
    """The same on servers that give the same text for the same request and seed; empty if the server does not say."""
    max_message_bytes: int
    """The largest request that the server takes, in bytes of its message; 0 if the server does not say."""

    @classmethod
    def from_wire(cls, response: chat_pb2.GetModelResponse) -> Self:
        """Copies the generated message."""
        return cls(
            model=response.model,
            context_length=response.context_length,
            default_sampling=Sampling.from_wire(response.default_sampling),
            default_max_tokens=response.default_max_tokens,
            device=response.device,
            dtype=response.dtype,
            server_version=response.server_version,
            num_parameters=response.num_parameters,
            vocab_size=response.vocab_size,
            max_sequences=response.max_sequences,
            max_waiting=response.max_waiting,
            quantization=response.quantization,
            kv_cache_tokens=response.kv_cache_tokens,
            max_waiting_tokens=response.max_waiting_tokens,
            fingerprint=response.fingerprint,
            max_message_bytes=response.max_message_bytes,
        )
