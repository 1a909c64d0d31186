"""The settings of the server's stop, and of its metrics, traces and logs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from index_grpc.settings.topic import Topic, refuse


class Stopping(Topic):
    """What happens to calls after SIGTERM."""

    drain_delay_seconds: float = Field(
        3.0, ge=0, le=3600, description="After SIGTERM: how long to keep taking calls while health says NOT_SERVING."
    )
    grace_seconds: float = Field(
        60.0, ge=0, le=86_400, description="After that: how long running calls may take to end before they are cut off."
    )


class Observing(Topic):
    """Metrics, traces, log and load reports."""

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
    traces: bool = Field(
        False,
        description="Send a trace of each call to an OpenTelemetry collector by OTLP over gRPC; the standard OTEL_ "
        "variables say where to (without them localhost:4317). Needs the extra `otel`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines to log.")
    log_format: Literal["text", "json"] = Field(
        "text", description="How to write the log: lines of text, or of JSON, one object each."
    )
    log_prompts: bool = Field(
        False, description="Write prompts and answers into the log; without it no text of any request is ever logged."
    )

    @property
    def address_of_metrics(self) -> str:
        """The address of the metrics. They are not encrypted and need no key, so wider access must be asked for."""
        return self.metrics_host or "127.0.0.1"

    @model_validator(mode="after")
    def _refuse_a_host_without_port(self) -> Self:
        refuse((self.metrics_host and self.metrics_port is None, "--metrics-host goes with --metrics-port; add it"))
        return self
