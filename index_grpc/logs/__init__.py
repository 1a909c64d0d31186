"""The log formats of the server's processes."""

import io
import json
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from index_grpc.logs.writer import LogWriter

NOISY = ("filelock", "grpc", "httpx", "huggingface_hub", "torch", "urllib3")
"""Libraries whose messages below WARNING are of no use to a reader."""

PLAIN_WORD = re.compile(r"[\w.:/+\[\]-]+", re.ASCII)
UNSAFE_IN_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that end a line or move a terminal's cursor."""
UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Characters that JSON allows in a string, but that some readers and terminals treat as controls."""


@dataclass(frozen=True, slots=True)
class Event:
    """A log message with fields: `name=value` in a line of text, members in a line of JSON."""

    name: str
    fields: Mapping[str, str | int | float]

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={_word(value)}" for name, value in self.fields.items())])


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text; a traceback follows, indented. No content can look like another record."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        lines = [f"{self.formatTime(record)} {record.levelname} {record.getMessage()}"]
        more = [self.formatException(record.exc_info)] if record.exc_info else []
        more += [self.formatStack(record.stack_info)] if record.stack_info else []
        lines += [f"  {line}" for text in more for line in text.split("\n")]
        return "\n".join(map(_visible, lines))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on a line; an Event's fields are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": event.name,
            **event.fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(line, ensure_ascii=False))


def configure_logging(level: str, log_format: str) -> None:
    """Configures logging: records of this level and above are written to stderr, as `text` or `json`."""
    if log_format == "json" and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # JSON is UTF-8, whatever the locale
    handler = LogWriter()
    handler.setLevel(level.upper())  # else loggers with a level of their own would write below ours
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.captureWarnings(True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def flush_log() -> bool:
    """Waits until the log is written, but not for a reader that has stalled. Returns whether all is written."""
    return all(handler.write_all() for handler in logging.root.handlers if isinstance(handler, LogWriter))


def adopt_libraries() -> None:
    """Removes log handlers that some libraries add on import, so that their records are formatted like all others."""
    for name, logger in [*logging.root.manager.loggerDict.items()]:  # other threads may add to them
        if name.partition(".")[0] in NOISY and isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def _visible(line: str) -> str:
    """Returns the line with all characters escaped that end a line or move a terminal's cursor."""
    return UNSAFE_IN_TEXT.sub(lambda found: repr(found[0])[1:-1], line)


def _word(value: str | float) -> str:
    """Returns a value for a line of text, quoted so that no text of a caller can end the line or look like a field."""
    if isinstance(value, str):
        return value if PLAIN_WORD.fullmatch(value) else repr(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
