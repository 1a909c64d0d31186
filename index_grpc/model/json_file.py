"""Reads the JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from index_grpc.errors import CheckpointError

AGAIN = "download it again"


def read_object(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """Returns the object in a file. Raises CheckpointError; `remedy` says what to do if the file cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise CheckpointError(f"{path}: is not JSON in UTF-8 ({error}); {AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds a {type(values).__name__} and should hold a JSON object")
    return values
