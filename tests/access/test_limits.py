"""The limits of a key."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from index_grpc.access.gate import Gate
from index_grpc.access.keys import Key, fingerprint, key_file
from index_grpc.access.limits import KeyUsage
from index_grpc.errors import EngineLost, Loading, Overloaded, RateLimited, RequestFailed


class Clock:
    """A clock that stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key(**limits: float) -> Key:
    return Key.model_validate({"hash": fingerprint("one")} | limits)


def never() -> bool:
    """Says that no part of a call's answer was sent."""
    return False


def make_calls(usage: KeyUsage, key: Key, number: int) -> None:
    for _ in range(number):
        with usage.of_one_call("one", key, never):
            pass


def refused_metadata(usage: KeyUsage, key: Key) -> dict[str, str]:
    with pytest.raises(RateLimited) as caught, usage.of_one_call("one", key, never):
        pass
    return caught.value.metadata


def refused_seconds(usage: KeyUsage, key: Key) -> float:
    with pytest.raises(RateLimited) as caught, usage.of_one_call("one", key, never):
        pass
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


def test_a_minutes_requests_may_come_at_once_and_then_at_the_rate(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=30)
    make_calls(usage, limited, 30)
    assert refused_seconds(usage, limited) == pytest.approx(2)
    clock.now += 1.5
    assert refused_seconds(usage, limited) == pytest.approx(0.5)
    clock.now += 0.5
    make_calls(usage, limited, 1)
    assert refused_seconds(usage, limited) == pytest.approx(2)
    clock.now += 3600
    make_calls(usage, limited, 30)
    refused_seconds(usage, limited)


@pytest.mark.parametrize("per_minute", [0.5, 7, 59.9, 1000])
def test_a_caller_that_retries_when_told_is_not_refused(clock: Clock, per_minute: float) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=per_minute)
    make_calls(usage, limited, max(1, int(per_minute)))
    for _ in range(200):
        clock.now += refused_seconds(usage, limited)
        make_calls(usage, limited, 1)


def test_calls_at_a_time(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(max_concurrent=2, requests_per_minute=4)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(usage.of_one_call("one", limited, never))
        for _ in range(10):  # these do not count as requests of the minute
            assert refused_seconds(usage, limited) > 0
    make_calls(usage, limited, 2)
    assert usage.num_open == 0


def test_the_error_names_the_limit_that_was_reached(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(max_concurrent=1, requests_per_minute=0.5)
    with usage.of_one_call("one", limited, never):
        assert refused_metadata(usage, limited) == {"key_name": "one", "max_concurrent": "1"}
    assert refused_metadata(usage, limited) == {"key_name": "one", "requests_per_minute": "0.5"}


@pytest.mark.parametrize(("limit", "told"), [(1_000_000, "1000000"), (123456.5, "123456.5"), (60, "60")])
def test_the_error_gives_the_limit_in_decimal(clock: Clock, limit: float, told: str) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=limit)
    make_calls(usage, limited, int(limit))
    assert refused_metadata(usage, limited)["requests_per_minute"] == told


def test_a_call_that_fails_is_over(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(max_concurrent=1)
    with pytest.raises(ZeroDivisionError), usage.of_one_call("one", limited, never):
        raise ZeroDivisionError
    make_calls(usage, limited, 1)


def test_an_unserved_call_gives_its_request_back(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=2)
    for _ in range(5):
        with pytest.raises(Loading), usage.of_one_call("one", limited, never):
            raise Loading("not yet")
    make_calls(usage, limited, 2)
    refused_seconds(usage, limited)


@pytest.mark.parametrize(
    ("error", "was_served"),
    [(EngineLost("lost"), True), (RequestFailed("broken"), False), (Overloaded("full"), False)],
)
def test_a_call_that_was_served_or_cost_something_counts(clock: Clock, error: Exception, was_served: bool) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=1)
    with pytest.raises(type(error)), usage.of_one_call("one", limited, lambda: was_served):
        raise error
    refused_seconds(usage, limited)


def test_no_more_is_given_back_than_a_minute_has(clock: Clock) -> None:
    usage, limited = KeyUsage(clock), key(requests_per_minute=60)
    with pytest.raises(Loading), usage.of_one_call("one", limited, never):
        raise Loading("not yet")
    clock.now += 60
    make_calls(usage, limited, 60)
    refused_seconds(usage, limited)


def test_without_limits_nothing_is_refused(clock: Clock) -> None:
    make_calls(KeyUsage(clock), key(), 1000)


def test_each_key_has_its_own_usage_which_outlasts_a_new_file(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"

    def write(per_minute: int, secret: str = "one") -> None:
        entries = [f"hash = '{fingerprint(name)}'\nrequests_per_minute = {per_minute}" for name in (secret, "two")]
        path.write_text(f"[keys.one]\n{entries[0]}\n[keys.two]\n{entries[1]}\n")

    write(3)
    keys = key_file(path)
    gate = Gate(keys, clock)

    def ask(secret: str) -> None:
        with gate.counted(gate.caller(f"Bearer {secret}"), never):
            pass

    for _ in range(3):
        ask("one")
    with pytest.raises(RateLimited, match=r"key one may make 3 requests a minute; try again in 20\.00 s"):
        ask("one")
    ask("two")
    write(6, "a new secret")
    keys.refresh()
    with pytest.raises(RateLimited, match=r"key one may make 6 requests a minute; try again in 10\.00 s"):
        ask("a new secret")
    clock.now += 10
    ask("a new secret")
