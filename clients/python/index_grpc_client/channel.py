"""How a client's channel is set up."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from index_grpc_client.limits import require_utf8
from index_grpc_client.v1 import chat_pb2
from index_grpc_client.version import __version__

DEFAULT_ADDRESS = "127.0.0.1:50051"
SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_MESSAGE_BYTES = 16 * 2**20
RETRIED_BYTES = MAX_MESSAGE_BYTES + 64 * 2**10
"""What gRPC keeps of a call to send it again, its headers included; of its own accord it keeps 256 KiB."""

SCHEMES_OF_PATHS = ("unix:", "unix-abstract:")
SCHEMES_OF_HOSTS = ("dns:", "ipv4:", "ipv6:")
SCHEMES_OF_URLS = ("http://", "https://", "grpc://", "grpcs://")
SCHEMES_OF_LISTS = ("ipv4:", "ipv6:")
BEFORE_HOSTS = re.compile(r"^(dns:(//[^/]*/)?|ipv[46]:/*)")
HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:]*):([^:]*)")

ChannelOptions: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]


def has_scheme(address: str) -> bool:
    """Tells whether gRPC is to dial the address as it is."""
    return address.startswith(SCHEMES_OF_PATHS + SCHEMES_OF_HOSTS) or "://" in address


def has_port(address: str) -> bool:
    """Tells whether a `host:port` names its port. Where none is, gRPC dials 443."""
    return HOST_AND_PORT.fullmatch(address) is not None


def allowed_address(address: str, name: str = "address") -> str:
    """Returns the address. What schemes that are not known here may hold is left to gRPC.

    Raises:
        ValueError: no host or path is named, it is a URL, or a port is out of range; gRPC would dial another one.
    """
    require_utf8({name: address})
    for scheme in SCHEMES_OF_URLS:
        if address.lower().startswith(scheme):
            raise ValueError(f"{name} is {address!r}, which begins with {scheme}; allowed is host:port or unix:PATH")
    if address.removesuffix("//") in SCHEMES_OF_PATHS:
        raise ValueError(f"{name} is {address!r}, which names no path; allowed is unix:PATH or host:port")
    if address.startswith(SCHEMES_OF_HOSTS) or not has_scheme(address):
        hosts_of = hosts(address)
        if len(hosts_of) > 1 and not address.startswith(SCHEMES_OF_LISTS):
            raise ValueError(f"{name} is {address!r}, which lists hosts; allowed is that with ipv4: or ipv6: before it")
        for host in hosts_of:
            require_host(address, host, name)
    return address


def hosts(address: str) -> list[str]:
    """Returns the hosts of an address that is no path, with their ports."""
    return BEFORE_HOSTS.sub("", address).split(",")


def host_names(address: str) -> list[str]:
    """Returns the names or IP addresses of the hosts, without their ports."""
    found = [HOST_AND_PORT.fullmatch(host) or host for host in hosts(address)]
    return [(host if isinstance(host, str) else host[1]).strip("[]") for host in found]


def is_local(address: str) -> bool:
    """Tells whether the address is of this machine alone, which no proxy can reach."""
    return address.startswith(SCHEMES_OF_PATHS) or all(map(_is_loopback, host_names(address)))


def _is_loopback(name: str) -> bool:
    try:
        return name.lower().removesuffix(".") == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def require_host(address: str, host: str, name: str) -> None:
    """Raises ValueError if one host of the address, with or without its port, is invalid."""
    found = HOST_AND_PORT.fullmatch(host)  # an IPv6 address without brackets is not, and has no port
    if not (found[1] if found else host).strip():
        raise ValueError(f"{name} is {address!r}, which names no host; allowed is host:port or unix:PATH")
    if found and not (re.fullmatch("[0-9]+", found[2]) and 1 <= int(found[2]) <= 65535):
        port = found[2] or "''"
        raise ValueError(f"{name} is {address!r}, which has the port {port}; allowed is 1 to 65535")


def service_config() -> str:
    """Returns the JSON that tells gRPC to balance, and to retry what a server had not begun.

    It does not have gRPC watch servers' health too: together with retries, gRPC 1.85 forgets the deadline of a call
    that waits for its next attempt while the last healthy server turns unhealthy, and the call never ends. A server
    that is not serving refuses by itself, and the next attempt goes to another one. CANCELLED is what gRPC makes of a
    call that reaches a server in the moment in which it stops.

    Retries are not throttled: gRPC 1.85 would count each stream that its reader leaves as a failure, since it ends with
    CANCELLED, and retry nothing once enough are left. The times that a refusing server gives keep callers away.
    """
    retry_policy = {
        "maxAttempts": 5,  # the most that gRPC makes, whatever is asked for
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    services = [{"service": SERVICE}, {"service": HEALTH_SERVICE}]
    methods = [{"name": services, "retryPolicy": retry_policy}]
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": methods})


@dataclass(frozen=True)
class ChannelSettings:
    """How to reach a server."""

    address: str
    tls: bool
    credentials: grpc.ChannelCredentials | None
    options: ChannelOptions | None

    def target(self) -> str:
        """Returns what gRPC dials: a `host:port` goes through DNS, so that calls are spread over all its addresses.

        Raises ValueError if the address is invalid.
        """
        address = allowed_address(self.address)
        return address if has_scheme(address) else f"dns:///{address}"

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Returns None for a channel in the clear."""
        return self.credentials or (grpc.ssl_channel_credentials() if self.tls else None)

    def channel_options(self) -> list[tuple[str, Any]]:
        """Returns our defaults, with the given options in the place of those of the same name."""
        defaults = {
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.max_reconnect_backoff_ms": 5_000,  # gRPC's own two minutes leave a server that is back alone for long
            "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
            "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
            "grpc.per_rpc_retry_buffer_size": RETRIED_BYTES,
            "grpc.primary_user_agent": f"index-grpc-client/{__version__}",
            "grpc.service_config": service_config(),
        }
        if is_local(allowed_address(self.address)):
            defaults["grpc.enable_http_proxy"] = 0
        return list((defaults | dict(self.options or {})).items())
