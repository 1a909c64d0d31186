"""Who observes a server: as its settings say."""

from index_grpc.errors import StartupError
from index_grpc.server.observer import Observer
from index_grpc.settings import ServeSettings


def observers(settings: ServeSettings) -> list[Observer]:
    """Those beside the log. Raises StartupError if one of them cannot be had."""
    made: list[Observer] = []
    if settings.traces:
        made.append(_tracing())
    return made


def _tracing() -> Observer:
    try:
        from index_grpc.server.tracing import tracing_from_environment
    except ImportError as error:
        raise StartupError(f"--traces needs OpenTelemetry ({error}); pip install 'index-grpc[otel]'") from error
    return tracing_from_environment()
