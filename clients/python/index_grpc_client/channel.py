"""How a client's channel is set up."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from index_grpc_client.limits import require_utf8
from index_grpc_client.v1 import chat_pb2
from index_grpc_client.version import __version__

DEFAULT_ADDRESS = "127.0.0.1:50051"
SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
MAX_MESSAGE_BYTES = 16 * 2**20

SCHEMES_OF_PATHS = ("unix:", "unix-abstract:")
SCHEMES_OF_HOSTS = ("dns:", "ipv4:", "ipv6:")
BEFORE_HOSTS = re.compile(r"^(dns:(//[^/]*/)?|ipv[46]:/*)")
HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:]*):([^:]*)")

ChannelOptions: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]


def has_scheme(address: str) -> bool:
    """Tells whether gRPC is to dial the address as it is."""
    return address.startswith(SCHEMES_OF_PATHS + SCHEMES_OF_HOSTS) or "://" in address


def allowed_address(address: str, name: str = "address") -> str:
    """Returns the address. What schemes that are not known here may hold is left to gRPC.

    Raises:
        ValueError: no host or path is named, or a port is out of range, in whose place gRPC would dial another one.
    """
    require_utf8({name: address})
    if address in SCHEMES_OF_PATHS:
        raise ValueError(f"{name} is {address!r}, which names no path; allowed is unix:PATH or host:port")
    if address.startswith(SCHEMES_OF_HOSTS) or not has_scheme(address):
        for host in BEFORE_HOSTS.sub("", address).split(","):
            require_host(address, host, name)
    return address


def require_host(address: str, host: str, name: str) -> None:
    """Refuses a host of the address, with or without its port, that is none."""
    found = HOST_AND_PORT.fullmatch(host)  # an IPv6 address without brackets is not, and has no port
    if not (found[1] if found else host).strip():
        raise ValueError(f"{name} is {address!r}, which names no host; allowed is host:port or unix:PATH")
    if found and not (re.fullmatch("[0-9]+", found[2]) and 1 <= int(found[2]) <= 65535):
        port = found[2] or "''"
        raise ValueError(f"{name} is {address!r}, which has the port {port}; allowed is 1 to 65535")


def service_config(*, watch_health: bool) -> str:
    """Returns the JSON that tells gRPC to balance, to retry what a server had not begun, and to watch servers' health.

    A channel that watches health sends nothing to a server that is not serving; a call then fails as UNAVAILABLE.
    """
    config: dict[str, object] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
    if watch_health:
        config["healthCheckConfig"] = {"serviceName": SERVICE}
    return json.dumps(config)


@dataclass(frozen=True)
class Dial:
    """How to reach a server."""

    address: str
    tls: bool
    credentials: grpc.ChannelCredentials | None
    options: ChannelOptions | None

    def target(self) -> str:
        """Returns what gRPC dials: a `host:port` goes through DNS, so that calls are spread over all its addresses.

        Raises ValueError if the address is none.
        """
        address = allowed_address(self.address)
        return address if has_scheme(address) else f"dns:///{address}"

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Returns None for a channel in the clear."""
        return self.credentials or (grpc.ssl_channel_credentials() if self.tls else None)

    def channel_options(self, *, watch_health: bool) -> list[tuple[str, Any]]:
        """Returns our defaults, with the given options in the place of those of the same name."""
        defaults = {
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
            "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
            "grpc.primary_user_agent": f"index-grpc-client/{__version__}",
            "grpc.service_config": service_config(watch_health=watch_health),
        }
        return list((defaults | dict(self.options or {})).items())
