"""The server's settings: one frozen class that flags, environment and file fill."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

DEFAULT_MODEL = "demo"
DEFAULT_REPOSITORY = "IndexTeam/Index-1.9B-Chat"
DEFAULT_AGE_GRACE_SECONDS = 3600.0


def _known_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "allowed is auto, cpu, cuda or cuda:N")
    return name


class ServeSettings(BaseModel):
    """What `index-grpc serve` can be told. Each field is a flag, a variable INDEX_GRPC_<NAME> and a key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        DEFAULT_MODEL,
        min_length=1,
        description=f"What to serve: demo, a checkpoint's directory, or a hub id such as {DEFAULT_REPOSITORY}.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 and [::] are everywhere.")
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    unix_socket: Path | None = Field(
        None, description="Listen on this unix socket, in the place of --host and --port. For callers on this machine."
    )
    unix_socket_mode: Annotated[str, StringConstraints(pattern="^0?[0-7]{3}$")] = Field(
        "600", description="Permissions of that socket, octal; who may write to it may call."
    )
    tls_cert: Path | None = Field(
        None, description="Encrypt: file with the server's certificate and its chain, PEM. Read again when it changes."
    )
    tls_key: Path | None = Field(None, description="File with the private key of that certificate, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="Take only callers with a certificate signed by one in this file, PEM (mutual TLS)."
    )
    api_keys_file: Path | None = Field(
        None,
        description="Take only calls with a key of this file; `index-grpc keys new` adds one. Read again too.",
    )
    open_health: bool = Field(True, description="Answer health checks without a key too, since probes have none.")
    open_reflection: bool = Field(False, description="Describe the service to tools without a key too.")
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
    kv_memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the memory that is free once the weights are loaded for the keys and values of "
        "conversations. Default: 0.8 on cpu, 0.9 on cuda.",
    )
    kv_memory_bytes: int | None = Field(None, ge=1, description="Or so many bytes for them, whatever is free.")
    max_sequences: int | None = Field(
        None, ge=1, le=1024, description="Calls computed at the same time. Default: 32, on cuda 128."
    )
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
    stream_interval: int = Field(
        1,
        ge=1,
        le=64,
        description="Tokens that a message of a stream waits for, after the first; more than 1 costs less, and is "
        "less smooth. Calls with stop strings get each token at once.",
    )
    max_message_mib: int = Field(16, ge=1, le=1024, description="Largest message taken, in MiB.")
    max_connection_age_seconds: float | None = Field(
        None,
        ge=1,
        le=86_400,
        description="Ask a connection's client to make a new one after so long, so that balancers see new servers.",
    )
    max_connection_age_grace_seconds: float = Field(
        DEFAULT_AGE_GRACE_SECONDS,
        ge=1,
        le=86_400,
        description="After that: how long calls on the old connection may take to end.",
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
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port for Prometheus, plain HTTP; 0 takes a free one. Default: no such port."
    )
    metrics_host: str | None = Field(
        None, min_length=1, description="Address of that port; 0.0.0.0 and :: are everywhere. Default: 127.0.0.1."
    )
    load_report_service: bool = Field(
        False,
        description="Offer load reports (ORCA) as a stream too, for balancers; each call brings one anyway.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines to log.")
    log_format: Literal["text", "json"] = Field(
        "text", description="How to write the log: lines of text, or of JSON, one object each."
    )
    log_prompts: bool = Field(
        False, description="Write prompts and answers into the log; without it no text of any request is ever logged."
    )
    traces: bool = Field(
        False,
        description="Send a trace of each call to an OpenTelemetry collector by OTLP over gRPC; the standard OTEL_ "
        "variables say where to (without them localhost:4317). Needs the extra `otel`.",
    )

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> Self:
        for wrong, problem in (
            (bool(self.tls_cert) != bool(self.tls_key), "--tls-cert and --tls-key go together; give both"),
            (self.tls_client_ca and not self.tls_cert, "--tls-client-ca goes with --tls-cert and --tls-key; add them"),
            (
                self.tls_cert and self.unix_socket,
                "--unix-socket needs no encryption; leave --tls-cert out",
            ),
            (self.unix_socket_mode != "600" and not self.unix_socket, "--unix-socket-mode goes with --unix-socket"),
            (
                self.max_connection_age_seconds is None
                and self.max_connection_age_grace_seconds != DEFAULT_AGE_GRACE_SECONDS,
                "--max-connection-age-grace-seconds goes with --max-connection-age-seconds; add it",
            ),
            (self.http_host and self.http_port is None, "--http-host goes with --http-port; add it"),
            (not (self.open_health or self.api_keys_file), "--no-open-health goes with --api-keys-file; add it"),
            (
                self.kv_memory_fraction is not None and self.kv_memory_bytes is not None,
                "--kv-memory-fraction and --kv-memory-bytes say the same in two ways; leave one out",
            ),
            (self.metrics_host and self.metrics_port is None, "--metrics-host goes with --metrics-port; add it"),
        ):
            if wrong:
                raise PydanticCustomError("together", problem)
        return self


TOPICS = {
    "Model": ("model", "revision"),
    "Listening": (
        "host",
        "port",
        "unix_socket",
        "unix_socket_mode",
        "http_port",
        "http_host",
        "stream_interval",
        "max_message_mib",
        "max_connection_age_seconds",
        "max_connection_age_grace_seconds",
    ),
    "Who may come in": ("tls_cert", "tls_key", "tls_client_ca", "api_keys_file", "open_health", "open_reflection"),
    "Engine": (
        "device",
        "dtype",
        "quantize",
        "engine_process",
        "threads",
        "kv_memory_fraction",
        "kv_memory_bytes",
        "prefix_reuse",
        "step_timeout_seconds",
    ),
    "Queue": ("max_sequences", "max_waiting", "max_waiting_tokens"),
    "Stopping": ("drain_delay_seconds", "grace_seconds"),
    "Seeing": (
        "metrics_port",
        "metrics_host",
        "load_report_service",
        "traces",
        "log_level",
        "log_format",
        "log_prompts",
    ),
}
"""How the settings are grouped where people read them; each is in one topic."""
