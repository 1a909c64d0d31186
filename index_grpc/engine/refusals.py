"""The errors of requests that the engine has no place for: what is taken, and what the caller can do."""

from index_grpc.datatypes import Deadline
from index_grpc.engine.limits import Limits
from index_grpc.errors import ELSEWHERE_OR_LATER, Overloaded, in_seconds

ELSEWHERE_OR_LONGER = "call another server, or allow more time"
"""The remedy in messages about a wait that would outlast a call's time."""

SHORTEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.1, 30.0


def all_places_taken(limits: Limits, pace_seconds: float) -> Overloaded:
    """Returns the error if as many requests run and wait as may. A place gets free every `pace_seconds`."""
    taken = f"all places are taken, {limits.max_sequences} to run and {limits.max_waiting} to wait"
    return Overloaded(
        f"{taken}; {ELSEWHERE_OR_LATER}",
        _delay_seconds(pace_seconds),
        max_sequences=limits.max_sequences,
        max_waiting=limits.max_waiting,
    )


def too_many_prompt_tokens(num_waiting: int, num_prompt: int, limits: Limits, pace_seconds: float) -> Overloaded:
    """Returns the error if a prompt of `num_prompt` tokens is too much beside the `num_waiting` that wait already."""
    most = limits.max_waiting_tokens
    ahead = f"{num_waiting} prompt tokens wait already"
    more = f"this prompt's {num_prompt} would make them more than {most}"
    return Overloaded(
        f"{ahead}; {more}; {ELSEWHERE_OR_LATER}",
        _delay_seconds(pace_seconds),
        waiting_tokens=num_waiting,
        prompt_tokens=num_prompt,
        max_waiting_tokens=most,
    )


def too_long_a_wait(wait_seconds: float, seconds_left: float, deadline: Deadline) -> Overloaded:
    """Returns the error of a request that would wait past its deadline.

    Waiting does not help it here, so the delay is short: the call's time must suffice for another server.
    """
    return Overloaded(
        f"the call would wait about {in_seconds(wait_seconds)}, "
        f"and its {deadline.bound} leaves only {in_seconds(seconds_left)}; {ELSEWHERE_OR_LONGER}",
        SHORTEST_DELAY_SECONDS,
        expected_wait_ms=round(1000 * wait_seconds),
        time_left_ms=round(1000 * seconds_left),
    )


def _delay_seconds(pace_seconds: float) -> float:
    """Returns after how many seconds a refused caller may try again."""
    return min(max(pace_seconds, SHORTEST_DELAY_SECONDS), LONGEST_DELAY_SECONDS)
