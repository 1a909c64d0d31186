"""How a client's channel is set up."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from index_grpc_client.v1 import chat_pb2
from index_grpc_client.version import __version__

DEFAULT_ADDRESS = "127.0.0.1:50051"
SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
MAX_MESSAGE_BYTES = 16 * 2**20

ChannelOptions: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]


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
        """Returns what gRPC dials: a `host:port` goes through DNS, so that calls are spread over all its addresses."""
        schemes = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")
        has_scheme = self.address.startswith(schemes) or "://" in self.address
        return self.address if has_scheme else f"dns:///{self.address}"

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
