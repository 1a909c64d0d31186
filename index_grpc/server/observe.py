"""Who observes a server, as its settings say."""

from index_grpc.errors import StartupError
from index_grpc.server.call_log import CallLog
from index_grpc.server.observer import Observer
from index_grpc.settings import ServeSettings

LOOPBACK = "127.0.0.1"
"""Metrics are not encrypted and ask for no key, so whoever wants them elsewhere has to say so."""


def observers_of(settings: ServeSettings) -> list[Observer]:
    """The log of calls, and before it, since it tells the trace of a call, whatever else is turned on.

    What is not is not imported. Raises StartupError.
    """
    observers: list[Observer] = []
    if settings.traces:
        observers.append(_tracing())
    if settings.metrics_port is not None:
        from index_grpc.server.metrics.observer import Metrics  # slow to import

        observers.append(Metrics(settings.metrics_host or LOOPBACK, settings.metrics_port))
    return [*observers, CallLog()]


def _tracing() -> Observer:
    try:
        from index_grpc.server.tracing import tracing_from_environment
    except ImportError as error:
        raise StartupError(f"--traces needs OpenTelemetry ({error}); pip install 'index-grpc[otel]'") from error
    return tracing_from_environment()
