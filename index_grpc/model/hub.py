"""Finds the directory with a model's files by the model's name: the demo, a directory, or a download from a hub.

Only data is fetched, never code: no `.py` file of a repository reaches this machine.
"""

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download

from index_grpc.errors import CheckpointError
from index_grpc.model.hub_errors import explain

DEMO = "demo"
DEMO_DIRECTORY = Path(__file__).parents[1] / "demo_checkpoint"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def resolve(model: str, revision: str | None = None) -> tuple[str, Path]:
    """Returns the name under which a model is served and the directory with its files.

    `model` is `demo`, a directory, or a hub id such as `IndexTeam/Index-1.9B-Chat`, which is downloaded unless the
    local cache has it. Raises CheckpointError with a remedy.
    """
    place = os.path.expanduser(model)
    if model != DEMO and not os.path.isdir(place):
        _require_hub_id(model)
        return model, _fetch(model, revision, None)
    if revision is not None:
        raise CheckpointError(f"revision {revision!r}: {model} is not on a hub and has none; leave the revision out")
    if model != DEMO:
        return Path(place).resolve().name, Path(place)
    if not DEMO_DIRECTORY.is_dir():
        raise CheckpointError(
            f"{DEMO_DIRECTORY}: the demo model is not part of this installation; install index-grpc again"
        )
    return DEMO, DEMO_DIRECTORY


def fetch(model: str, revision: str | None, output: Path | None) -> Path:
    """Fetches a hub model into `output`, or into the cache, and returns its directory.

    Files that an earlier, interrupted download completed are not fetched again. Raises CheckpointError.
    """
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"model {model!r} is not a hub id; pass an owner/name such as IndexTeam/Index-1.9B-Chat")
    api = HfApi(endpoint=_endpoint())
    try:
        commit = api.model_info(model, revision=revision).sha
    except Exception as error:  # from the hub client, its HTTP library or the system: no common base class
        raise explain(error, model, revision, _endpoint(), output) from error
    # The cache records a branch's commit only if asked for the branch by name, as it will be asked offline.
    return _fetch(model, commit if output else revision, output)


def _require_hub_id(model: str) -> None:
    if not HUB_ID.fullmatch(model):
        place = os.path.abspath(os.path.expanduser(model))
        found = "a file; pass its directory" if os.path.isfile(place) else "neither a directory nor a hub id"
        raise CheckpointError(
            f"model {model!r} is {found}; looked for the directory {place}; "
            f"pass {DEMO!r}, a directory, or an owner/name such as IndexTeam/Index-1.9B-Chat"
        )


def _fetch(model: str, revision: str | None, output: Path | None) -> Path:
    """Fetches the small files and the weights: safetensors if there are any, else pickles."""
    try:
        directory = _snapshot(model, revision, output, SMALL_FILES + SAFETENSORS)
        if any(directory.glob("model*.safetensors")):
            return directory
        return _snapshot(model, revision, output, PICKLES)
    except Exception as error:  # from the hub client, its HTTP library or the system: no common base class
        raise explain(error, model, revision, _endpoint(), output) from error


def _snapshot(model: str, revision: str | None, output: Path | None, files: tuple[str, ...]) -> Path:
    return Path(
        snapshot_download(model, revision=revision, local_dir=output, allow_patterns=list(files), endpoint=_endpoint())
    )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
