"""Finds stop strings in text that comes in pieces."""

from collections.abc import Iterable


class StopMatcher:
    """Passes text on up to the first stop string; how the text is cut into pieces makes no difference.

    The stop string that ends first wins; if several end at one place, the longest. Only text that may become a stop
    string is held back. Each stop string is found by the Knuth-Morris-Pratt algorithm, so a character costs the same
    however long the text is.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Raises ValueError for an empty stop string."""
        self._progress = [_Progress(stop) for stop in stops]
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns the text that may be sent now, and the stop string once one is found; no text comes after it."""
        if not self._progress:
            return text, None
        if self._matched is not None:
            return "", self._matched
        held = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            ended = [progress.stop for progress in self._progress if progress.advance(character)]
            if ended:
                self._matched, self._held = max(ended, key=len), ""
                return held[: position - len(self._matched)], self._matched
        ready = len(held) - max(progress.length for progress in self._progress)
        self._held = held[ready:]
        return held[:ready], None

    def flush(self) -> str:
        """Returns the text that was held back. Call it when no more text will come."""
        held, self._held = self._held, ""
        return held


class _Progress:
    """The match of one stop string: the text so far ends with its first `length` characters."""

    def __init__(self, stop: str) -> None:
        if not stop:
            raise ValueError("a stop string is empty")
        self.stop = stop
        self.length = 0
        self._borders = _borders(stop)

    def advance(self, character: str) -> bool:
        """Takes the next character. Returns whether it completes the stop string."""
        while self.length and self.stop[self.length] != character:
            self.length = self._borders[self.length - 1]
        self.length += self.stop[self.length] == character
        return self.length == len(self.stop)


def _borders(stop: str) -> list[int]:
    """Returns, for each prefix of `stop`, the length of its longest proper prefix that is also its suffix."""
    borders, length = [0], 0
    for character in stop[1:]:
        while length and stop[length] != character:
            length = borders[length - 1]
        length += stop[length] == character
        borders.append(length)
    return borders
