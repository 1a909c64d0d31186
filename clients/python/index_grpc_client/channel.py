"""The settings of a client's channel: address, credentials, retries and limits."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

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
"""The most bytes of a call, with its headers, that gRPC keeps to send them again. gRPC's default is 256 KiB."""

SCHEMES_OF_PATHS = ("unix:", "unix-abstract:")
SCHEMES_OF_HOSTS = ("dns:", "ipv4:", "ipv6:")
SCHEMES_OF_URLS = ("http://", "https://", "grpc://", "grpcs://")
SCHEMES_OF_LISTS = ("ipv4:", "ipv6:")
BEFORE_HOSTS = re.compile(r"^(dns:(//[^/]*/)?|ipv[46]:/*)")
UNESCAPED_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:]*):([^:]*)")

ChannelOptions: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]


def has_scheme(address: str) -> bool:
    """Returns whether gRPC is given the address as it is."""
    return address.startswith(SCHEMES_OF_PATHS + SCHEMES_OF_HOSTS) or "://" in address


def has_port(address: str) -> bool:
    """Returns whether the address of a host has a port. Without one gRPC uses port 443."""
    return HOST_AND_PORT.fullmatch(address) is not None


def allowed_address(address: str, name: str = "address") -> str:
    """Returns the address. An address with a scheme that is not known here is checked only by gRPC.

    Raises:
        ValueError: the address has no host or path, is a URL, lists hosts without `ipv4:` or `ipv6:`, is not UTF-8, has
            colons outside of an IPv6 address and before the port, or has a port out of range, which gRPC would replace
            by another port.
        TypeError: the address is not a str.
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


def escaped(address: str) -> str:
    """Returns the address of a path as a URI: with what a URI does not allow in a path percent-encoded.

    A path that is encoded already stays as it is, so two hexadecimal digits behind a `%` are always an escape.
    """
    scheme, _, path = address.partition(":")
    return f"{scheme}:{quote(UNESCAPED_PERCENT.sub('%25', path), safe='/%')}"


def hosts(address: str) -> list[str]:
    """Returns the hosts of an address, with their ports. The address must not be a path."""
    return [unquote(host) for host in BEFORE_HOSTS.sub("", address).split(",")]


def host_names(address: str) -> list[str]:
    """Returns the names or IP addresses of the hosts, without their ports."""
    found = [HOST_AND_PORT.fullmatch(host) or host for host in hosts(address)]
    return [(host if isinstance(host, str) else host[1]).strip("[]") for host in found]


def is_local(address: str) -> bool:
    """Returns whether the address is reachable only on this machine, where a proxy is of no use."""
    return address.startswith(SCHEMES_OF_PATHS) or all(map(_is_loopback, host_names(address)))


def _is_loopback(name: str) -> bool:
    try:
        return name.lower().removesuffix(".") == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_ip(host: str) -> bool:
    """Returns whether the host is an IP address, perhaps in brackets."""
    inside = re.fullmatch(r"\[(.*)\]", host)
    try:
        ip_address(inside[1] if inside else host)
    except ValueError:
        return False
    return True


def require_host(address: str, host: str, name: str) -> None:
    """Raises ValueError if `host`, a host of the address with or without a port, is invalid."""
    found = HOST_AND_PORT.fullmatch(host)  # None for an IPv6 address without brackets, which has no port
    if not (found[1] if found else host).strip():
        raise ValueError(f"{name} is {address!r}, which names no host; allowed is host:port or unix:PATH")
    if not found and ":" in host and not _is_ip(host):
        allowed = "host:port, [IPv6]:port or unix:PATH"
        raise ValueError(f"{name} is {address!r}, which has several colons; allowed is {allowed}")
    if found and not (re.fullmatch("[0-9]+", found[2]) and 1 <= int(found[2]) <= 65535):
        port = found[2] or "''"
        raise ValueError(f"{name} is {address!r}, which has the port {port}; allowed is 1 to 65535")


def service_config() -> str:
    """Returns gRPC's service config, as JSON: balance calls over all addresses, and retry those that have not begun.

    It does not make gRPC watch the servers' health. Together with retries, gRPC 1.85 would forget the deadline of a
    call that waits for its next attempt while the last healthy server becomes unhealthy, and the call would never end.
    A server that is not serving refuses calls by itself, and the next attempt goes to another one. CANCELLED is retried
    because gRPC reports it for a call that reaches a server just as the server stops.

    It does not throttle retries. Each stream that its reader leaves ends with CANCELLED, which gRPC 1.85 would count as
    a failure; after enough of them it would retry nothing. A server that refuses calls limits retries by the delays
    that it names.
    """
    retry_policy = {
        "maxAttempts": 5,  # gRPC makes no more, even if this number is higher
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
    """The settings with which a channel to a server is opened."""

    address: str
    tls: bool
    credentials: grpc.ChannelCredentials | None
    options: ChannelOptions | None

    def target(self) -> str:
        """Returns gRPC's target: a `host:port` is resolved by DNS, so that calls are spread over all its addresses.

        Raises ValueError or TypeError if the address is invalid.
        """
        address = allowed_address(self.address)
        if address.startswith(SCHEMES_OF_PATHS):
            return escaped(address)
        return address if has_scheme(address) else f"dns:///{address}"

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Returns the credentials of an encrypted channel, or None if the channel is not encrypted."""
        return self.credentials or (grpc.ssl_channel_credentials() if self.tls else None)

    def channel_options(self) -> list[tuple[str, Any]]:
        """Returns the given options and, for names that are not given, the defaults."""
        defaults = {
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.max_reconnect_backoff_ms": 5_000,  # gRPC's default, two minutes, is long for a server that is back
            "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
            "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
            "grpc.per_rpc_retry_buffer_size": RETRIED_BYTES,
            "grpc.primary_user_agent": f"index-grpc-client/{__version__}",
            "grpc.service_config": service_config(),
        }
        if is_local(allowed_address(self.address)):
            defaults["grpc.enable_http_proxy"] = 0
        return list((defaults | dict(self.options or {})).items())
