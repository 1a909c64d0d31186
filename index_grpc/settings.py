"""The server's settings: one frozen class that the command line and the environment both fill."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

DEFAULT_MODEL = "demo"
DEFAULT_REPOSITORY = "IndexTeam/Index-1.9B-Chat"


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "allowed is auto, cpu, cuda or cuda:N")
    return name


class ServeSettings(BaseModel):
    """What `index-grpc serve` can be told. Each field is a flag and an environment variable INDEX_GRPC_<NAME>."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description=f"What to serve: demo, a checkpoint's directory, or a hub id such as {DEFAULT_REPOSITORY}.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 and [::] are everywhere.")
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    http_port: int | None = Field(
        None, ge=0, le=65535, description="Answer over HTTP too, on this port; 0 takes a free one. Default: not at all."
    )
    http_host: str | None = Field(None, min_length=1, description="Address of that port. Default: as --host.")
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
    max_sequences: int = Field(32, ge=1, le=1024, description="Calls computed at the same time.")
    max_waiting: int = Field(128, ge=0, le=100_000, description="Calls that may wait before more are refused.")
    max_waiting_tokens: int = Field(
        131_072,
        ge=1,
        description="Prompt tokens that may wait to be computed before more calls are refused; one always may.",
    )
    prefix_reuse: bool = Field(
        True,
        description="Keep what was computed for a prompt, until its space is needed, for prompts that begin the same.",
    )
    max_message_mib: int = Field(16, ge=1, le=1024, description="Largest message taken or sent, in MiB.")
    max_connection_age_seconds: float | None = Field(
        None,
        ge=1,
        le=86_400,
        description="Ask a connection's client to make a new one after so long, so that balancers see new servers.",
    )
    max_connection_age_grace_seconds: float = Field(
        3600.0, ge=1, le=86_400, description="After that: how long calls on the old connection may take to end."
    )
    drain_delay_seconds: float = Field(
        3.0, ge=0, le=3600, description="After SIGTERM: how long to keep taking calls while health says NOT_SERVING."
    )
    grace_seconds: float = Field(
        60.0, ge=0, le=86_400, description="After that: how long running calls may take to end before they are cut off."
    )
    step_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="An engine whose step takes longer counts as lost; health says NOT_SERVING long before.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines to log.")
