"""The settings of the model, the engine and the queue."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from index_grpc.settings.topic import Topic, refuse

DEFAULT_MODEL = "demo"
DEFAULT_REPOSITORY = "IndexTeam/Index-1.9B-Chat"


class ModelChoice(Topic):
    """The model to serve."""

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description=f"What to serve: demo, a checkpoint's directory, or a hub id such as {DEFAULT_REPOSITORY}.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "allowed is auto, cpu, cuda or cuda:N")
    return name


class Computing(Topic):
    """The engine's device, its memory and its time limit."""

    device: Annotated[str, AfterValidator(_known_device)] = Field(
        "auto", description="Where to compute: auto (cuda if there is one), cpu, cuda or cuda:N."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format: auto is bfloat16 on cuda and float32 on cpu, where bfloat16 is slow."
    )
    quantize: Literal["none", "int8"] = Field(
        "none",
        description="How to store weights on cpu: int8 takes half the memory, is faster for few callers, less exact.",
    )
    engine_process: bool | None = Field(
        None,
        description="Compute in a process of its own, which is started again if it dies. Default: on cuda only.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads to compute with on cpu; 0 takes one for each physical core, but one for a tiny model.",
    )
    kv_memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the memory that is free once the weights are loaded for the keys and values of "
        "conversations, though no more than twice max_sequences whole contexts need. Default: 0.8 on cpu, 0.9 on "
        "cuda.",
    )
    kv_memory_bytes: int | None = Field(None, ge=1, description="Or so many bytes for them; a whole context must fit.")
    prefix_reuse: bool = Field(
        True,
        description="Keep what was computed for a prompt, until its space is needed, for prompts that begin the same.",
    )
    step_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="An engine whose step takes longer counts as lost; health says NOT_SERVING long before.",
    )

    @model_validator(mode="after")
    def _refuse_two_sizes(self) -> Self:
        both = self.kv_memory_fraction is not None and self.kv_memory_bytes is not None
        refuse((both, "--kv-memory-fraction and --kv-memory-bytes say the same in two ways; leave one out"))
        return self


class Queue(Topic):
    """How many calls run and wait."""

    max_sequences: int | None = Field(
        None, ge=1, le=1024, description="Calls computed at the same time. Default: 32, on cuda 128."
    )
    max_waiting: int = Field(128, ge=0, le=100_000, description="Calls that may wait before more are refused.")
    max_waiting_tokens: int = Field(
        131_072,
        ge=1,
        description="Prompt tokens that may wait to be computed before more calls are refused; one always may.",
    )
