"""How channels are set up."""

import json

import pytest
from index_grpc_client import Client
from index_grpc_client.channel import MAX_MESSAGE_BYTES, SERVICE, ChannelOptions, ChannelSettings


def options(given: ChannelOptions | None = None) -> dict[str, object]:
    return dict(ChannelSettings("localhost:1", False, None, given).channel_options())


def test_the_defaults() -> None:
    ours = options()
    assert ours["grpc.keepalive_time_ms"] == 30_000
    assert ours["grpc.keepalive_timeout_ms"] == 10_000
    assert ours["grpc.max_reconnect_backoff_ms"] == 5_000
    assert ours["grpc.max_receive_message_length"] == ours["grpc.max_send_message_length"] == MAX_MESSAGE_BYTES == 2**24


def test_the_service_config() -> None:
    config = json.loads(str(options()["grpc.service_config"]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    [method] = config["methodConfig"]
    assert method["name"] == [{"service": SERVICE}, {"service": "grpc.health.v1.Health"}]
    assert method["retryPolicy"]["maxAttempts"] == 5
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert {"healthCheckConfig", "retryThrottling"}.isdisjoint(config)


@pytest.mark.parametrize("given", [{"grpc.keepalive_time_ms": 5}, [("grpc.keepalive_time_ms", 5)]])
def test_given_options_replace_those_of_their_name(given: ChannelOptions) -> None:
    assert options(given) == options() | {"grpc.keepalive_time_ms": 5}


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("example.org:50051", "dns:///example.org:50051"),
        ("[::1]:50051", "dns:///[::1]:50051"),
        ("unix:/run/index.sock", "unix:/run/index.sock"),
        ("unix:///run/index.sock", "unix:///run/index.sock"),
        ("unix:/so ck%#?é.sock", "unix:/so%20ck%25%23%3F%C3%A9.sock"),
        ("unix:/so%20ck%25%23%3F%c3%a9.sock", "unix:/so%20ck%25%23%3F%c3%a9.sock"),
        ("unix:50%.sock", "unix:50%25.sock"),
        ("unix-abstract:a#b", "unix-abstract:a%23b"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("xds:///index", "xds:///index"),
        ("localhost", "dns:///localhost"),
        ("::1", "dns:///::1"),
        ("localhost:65535", "dns:///localhost:65535"),
        ("dns://8.8.8.8/localhost:1", "dns://8.8.8.8/localhost:1"),
        ("ipv6:[::1]:1", "ipv6:[::1]:1"),
        ("ipv6:%5B::1%5D:1", "ipv6:%5B::1%5D:1"),
        ("fe80::1%eth0", "dns:///fe80::1%eth0"),
        ("[fe80::1%25eth0]:1", "dns:///[fe80::1%25eth0]:1"),
    ],
)
def test_targets(address: str, target: str) -> None:
    assert ChannelSettings(address, False, None, None).target() == target


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "names no host"),
        (" ", "names no host"),
        (":50051", "names no host"),
        ("unix:", "names no path"),
        ("unix://", "names no path"),
        ("a:1,b:2", "lists hosts"),
        ("dns:///a:1,b:2", "lists hosts"),
        ("127.0.0.1:99999", "has the port 99999"),
        ("localhost:0", "has the port 0"),
        ("[::1]:65536", "has the port 65536"),
        ("dns:///localhost:99999", "has the port 99999"),
        ("ipv4:127.0.0.1:1,127.0.0.1:99999", "has the port 99999"),
        ("x:1:2", "has several colons"),
        ("dns:///x:1:2", "has several colons"),
        ("[::1]1:2", "has several colons"),
        ("[::1", "has several colons"),
        ("::1]", "has several colons"),
        ("localhost:", "has the port ''"),
        ("localhost:http", "has the port http"),
        ("localhost:-1", "has the port -1"),
        ("localhost:５", "has the port ５"),
        ("a\udcff:1", "is not UTF-8"),
        ("http://localhost:50051", "begins with http://"),
        ("HTTP://localhost:50051", "begins with http://"),
        ("https://localhost", "begins with https://"),
        ("grpc://localhost:1", "begins with grpc://"),
    ],
)
def test_invalid_addresses_are_refused(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^address .*{why}") as refusal:
        ChannelSettings(address, False, None, None).target()
    assert "\n" not in str(refusal.value)


def test_a_client_cannot_be_made_for_an_invalid_address() -> None:
    with pytest.raises(ValueError, match=r"is '127[.]0[.]0[.]1:99999', which has the port 99999; allowed is 1"):
        Client("127.0.0.1:99999")


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.2:1", "[::1]:1", "dns:///LOCALHOST.:1", "unix:/a"])
def test_no_proxy_can_reach_the_loopback(address: str) -> None:
    assert ChannelSettings(address, False, None, None).channel_options().count(("grpc.enable_http_proxy", 0)) == 1


@pytest.mark.parametrize("address", ["example.org:1", "10.0.0.1:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "xds:///index"])
def test_other_servers_may_be_behind_a_proxy(address: str) -> None:
    assert "grpc.enable_http_proxy" not in dict(ChannelSettings(address, False, None, None).channel_options())


def test_credentials_imply_tls() -> None:
    assert ChannelSettings("localhost:1", False, None, None).channel_credentials() is None
    assert ChannelSettings("localhost:1", True, None, None).channel_credentials() is not None
