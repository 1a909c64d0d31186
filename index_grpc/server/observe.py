"""Makes the observers of a server, as its settings say."""

from index_grpc.errors import StartupError
from index_grpc.server.call_log import CallLog
from index_grpc.server.observer import Observer
from index_grpc.settings import ServeSettings


def observers_of(settings: ServeSettings) -> list[Observer]:
    """Returns the observers that are turned on, and last the call log, since it logs what tracing sets on a call.

    Imports no others. Raises StartupError if one cannot be made.
    """
    observers: list[Observer] = []
    if settings.traces:
        observers.append(_tracing())
    if settings.metrics_port is not None:
        from index_grpc.server.metrics.observer import Metrics  # slow to import

        observers.append(Metrics(settings.address_of_metrics, settings.metrics_port))
    return [*observers, CallLog()]


def _tracing() -> Observer:
    try:
        from index_grpc.server.tracing import tracing_from_environment
    except ImportError as error:
        raise StartupError(f"--traces needs OpenTelemetry ({error}); pip install 'index-grpc[otel]'") from error
    return tracing_from_environment()
