"""The values of a configuration file, checked as they are read."""

from collections.abc import Mapping

LARGEST_SIZE = 2**24
LARGEST_FLOAT = 1e30
"""Values end up in float32, which holds larger ones."""


class Fields:
    """Reads values by key; `null` counts as absent. Every method raises ValueError with the key and the value."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = {key: value for key, value in values.items() if value is not None}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def positive_int(self, key: str, default: int | None = None, most: int = LARGEST_SIZE) -> int:
        """Returns a whole number from 1 to `most`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{key} is {value!r} and should be a whole number from 1 to {most}")
        return value

    def positive_float(self, key: str, default: float | None = None, below: float = LARGEST_FLOAT) -> float:
        """Returns a number above zero and below `below`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < below:
            raise ValueError(f"{key} is {value!r} and should be a number above 0 and below {below:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false, which may be written 1 or 0."""
        value = self._take(key, default)
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"{key} is {value!r} and should be true or false")
        return bool(value)

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """Returns one of the choices."""
        value = self._take(key, default)
        if value not in choices:
            raise ValueError(f"{key} is {value!r}; supported: {', '.join(map(repr, choices))}")
        return str(value)

    def refuse(self, *keys: str) -> None:
        """Raises ValueError unless the values of these keys are absent, null, false, zero or empty."""
        for key in keys:
            if self._values.get(key):
                raise ValueError(f"{key} is {self._values[key]!r}, which is not computed here; serve another model")

    def refuse_all_but(self, *known: str) -> None:
        """Does the same as `refuse` for all keys but these."""
        self.refuse(*(key for key in self._values if key not in known))

    def group(self, key: str) -> "Fields":
        """Returns the fields of the object under a key; no fields if it is absent."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise ValueError(f"{key} is {value!r} and should be a JSON object")
        return Fields(value)

    def _take(self, key: str, default: object) -> object:
        value = self._values.get(key, default)
        if value is None:
            raise ValueError(f"{key} is missing")
        return value
