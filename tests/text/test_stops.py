"""Stop strings are found however the text is cut into pieces."""

from collections.abc import Sequence
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_grpc.text.stops import StopMatcher

alphabet = "ab好👍"
stop_lists = st.lists(st.text(alphabet, min_size=1, max_size=5), max_size=4)


def naive(stops: Sequence[str], text: str) -> tuple[str, str | None]:
    """The text before the match that ends first, and that match; of several, the longest. Tries every position."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


def held_back(stops: Sequence[str], text: str) -> int:
    """The length of the longest end of the text that may be the beginning of a stop string."""
    return max(
        (n for n in range(len(text) + 1) for s in stops if n < len(s) and s.startswith(text[len(text) - n :])),
        default=0,
    )


@given(stops=stop_lists, parts=st.lists(st.text(alphabet, max_size=6)))
def test_any_cutting_gives_what_the_naive_search_gives(stops: list[str], parts: list[str]) -> None:
    matcher, sent, matched, seen = StopMatcher(stops), "", None, ""
    for part in parts:
        ready, matched = matcher.push(part)
        sent, seen = sent + ready, seen + part
        expected, expected_match = naive(stops, seen)
        assert matched == expected_match
        assert sent == (expected if matched else seen[: len(seen) - held_back(stops, seen)])
    sent += matcher.flush()
    assert (sent, matched) == naive(stops, seen)


def test_match_that_ends_first_wins_over_the_one_that_began_first() -> None:
    assert StopMatcher(["abcd", "bc"]).push("xabcd") == ("xa", "bc")


def test_longest_of_those_that_end_together_wins() -> None:
    assert StopMatcher(["c", "abc", "bc"]).push("xabc") == ("x", "abc")


def test_only_what_may_still_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["\nUser:", "。。"])
    assert matcher.push("hello\nUs") == ("hello", None)
    assert matcher.push("\n") == ("\nUs", None)
    assert matcher.push("x。") == ("\nx", None)
    assert matcher.flush() == "。"


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("oneEN") == ("one", None)
    assert matcher.push("D two") == ("", "END")
    assert matcher.push("three") == ("", "END")
    assert matcher.flush() == ""


def test_without_stop_strings_all_goes_through() -> None:
    assert StopMatcher([]).push("text") == ("text", None)


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])


class CountedComparisons(str):
    """A stop string that counts how often one of its characters is read."""

    num_reads = 0

    def __getitem__(self, index: SupportsIndex | slice) -> str:
        type(self).num_reads += 1
        return super().__getitem__(index)


def test_cost_of_a_push_does_not_grow_with_the_text() -> None:
    matcher = StopMatcher([CountedComparisons("a" * 50 + "b")])
    costs = []
    for _ in range(3):
        before = CountedComparisons.num_reads
        matcher.push("a" * 2000)
        costs.append(CountedComparisons.num_reads - before)
    assert costs[0] <= 3 * 2000
    assert costs[2] <= costs[1]
