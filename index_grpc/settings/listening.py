"""The settings of addresses, messages and connections."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from index_grpc.settings.topic import GivenPath, Topic, refuse

DEFAULT_AGE_GRACE_SECONDS = 3600.0


def _octal_digits(mode: str) -> str:
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise PydanticCustomError("mode", "allowed are three octal digits, such as 660")
    return mode


class Listening(Topic):
    """Addresses, messages and connections."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 and [::] are everywhere.")
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    unix_socket: GivenPath | None = Field(
        None, description="Listen on this unix socket, in the place of --host and --port. For callers on this machine."
    )
    unix_socket_mode: Annotated[str, AfterValidator(_octal_digits)] = Field(
        "600", description="Permissions of that socket, octal; who may write to it may call."
    )
    http_port: int | None = Field(
        None, ge=0, le=65535, description="Answer over HTTP too, on this port; 0 takes a free one. Default: not at all."
    )
    http_host: str | None = Field(None, min_length=1, description="Address of that port. Default: as --host.")
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

    @property
    def max_message_bytes(self) -> int:
        """The largest message taken, in bytes."""
        return self.max_message_mib * 2**20

    @model_validator(mode="after")
    def _refuse_incomplete_addresses(self) -> Self:
        has_grace = self.max_connection_age_grace_seconds != DEFAULT_AGE_GRACE_SECONDS
        refuse(
            (self.unix_socket_mode != "600" and not self.unix_socket, "--unix-socket-mode goes with --unix-socket"),
            (
                self.max_connection_age_seconds is None and has_grace,
                "--max-connection-age-grace-seconds goes with --max-connection-age-seconds; add it",
            ),
            (self.http_host and self.http_port is None, "--http-host goes with --http-port; add it"),
        )
        return self
