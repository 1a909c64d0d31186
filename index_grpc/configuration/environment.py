"""The environment: variables that begin like ours and mean nothing are mistakes."""

import re
from collections.abc import Mapping

import click

from index_grpc.configuration.mistakes import closest
from index_grpc.settings import ServeSettings

PREFIX = "INDEX_GRPC_"

LOCKS = ("api_keys_file", "tls_cert", "tls_key", "tls_client_ca", "config")
"""Files without which more people may come in; one of settings may name the others."""

OTHERS = {f"{PREFIX}ADDRESS", f"{PREFIX}API_KEY"}
"""What the client reads."""

KUBERNETES_NAMES = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
KUBERNETES_PORT = re.compile(rf"{PREFIX}(\w+_)?PORT")
KUBERNETES_PORT_VALUES = ("tcp://", "udp://", "sctp://")


def variable(name: str) -> str:
    """The environment variable of a flag."""
    return f"{PREFIX}{name.upper()}"


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes sets this in every container beside a Service named index-grpc or index-grpc-…

    So it does with INDEX_GRPC_PORT=tcp://10.0.0.1:50051, which is not meant for `--port`.
    """
    is_port = KUBERNETES_PORT.fullmatch(name) is not None and value.startswith(KUBERNETES_PORT_VALUES)
    return is_port or KUBERNETES_NAMES.fullmatch(name) is not None


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raises UsageError for the first variable that looks like a setting and is none."""
    known = {variable(name) for name in (*ServeSettings.model_fields, "config")} | OTHERS
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in known and not is_of_kubernetes(name, value):
            raise click.UsageError(f"the environment has {name}, which is no setting; {closest(name, known, PREFIX)}")


def refuse_empty_locks(environment: Mapping[str, str]) -> None:
    """Raises UsageError for the first that is set to nothing: whoever set it meant the server to be locked."""
    for name in map(variable, LOCKS):
        if environment.get(name) == "":
            raise click.UsageError(f"{name} is empty; give it a file, or unset it to start without")
