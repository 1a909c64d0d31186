"""The environment's variables: one that has our prefix but is no setting is a mistake."""

import re
from collections.abc import Mapping

import click

from index_grpc.configuration.mistakes import closest
from index_grpc.settings import ServeSettings

PREFIX = "INDEX_GRPC_"

LOCKS = ("api_keys_file", "tls_cert", "tls_key", "tls_client_ca", "config")
"""Settings that name files of access control, and `config`, since such a file may set the others."""

OTHERS = {f"{PREFIX}ADDRESS", f"{PREFIX}API_KEY"}
"""Variables that the client reads."""

KUBERNETES_NAMES = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
KUBERNETES_PORT = re.compile(rf"{PREFIX}(\w+_)?PORT")
KUBERNETES_PORT_VALUES = ("tcp://", "udp://", "sctp://")


def variable(name: str) -> str:
    """Returns the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes sets this variable in containers because a Service is named index-grpc or index-grpc-…

    Such a variable is INDEX_GRPC_PORT=tcp://10.0.0.1:50051, which is not meant for `--port`.
    """
    is_port = KUBERNETES_PORT.fullmatch(name) is not None and value.startswith(KUBERNETES_PORT_VALUES)
    return is_port or KUBERNETES_NAMES.fullmatch(name) is not None


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raises UsageError for the first variable that has our prefix but is no setting."""
    known = {variable(name) for name in (*ServeSettings.model_fields, "config")} | OTHERS
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in known and not is_of_kubernetes(name, value):
            raise click.UsageError(
                f"the environment has {name}, which is not a setting; {closest(name, known, PREFIX)}"
            )


def refuse_empty_locks(environment: Mapping[str, str]) -> None:
    """Raises UsageError for the first of LOCKS that is set but empty: it must not turn access control off silently."""
    for name in map(variable, LOCKS):
        if environment.get(name) == "":
            raise click.UsageError(f"{name} is empty; give it a file, or unset it to start without")
