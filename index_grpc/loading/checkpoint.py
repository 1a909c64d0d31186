"""Checks that the parts of a checkpoint fit together, and downloads checkpoints."""

from pathlib import Path

from index_grpc.errors import CheckpointError
from index_grpc.model.checkpoint import open_checked
from index_grpc.model.config import ModelConfig, read_config
from index_grpc.model.hub import fetch
from index_grpc.text.tokenizer import Tokenizer


def describe(directory: Path) -> tuple[ModelConfig, Tokenizer]:
    """Returns a checkpoint's config and tokenizer. Raises CheckpointError if they do not fit together."""
    config, tokenizer = read_config(directory), Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: tokenizer.model has {tokenizer.vocab_size} pieces and the model only {config.vocab_size} "
            "rows for them (vocab_size in config.json); both must come from the same model"
        )
    return config, tokenizer


def download(model: str, revision: str | None = None, output: Path | None = None) -> Path:
    """Downloads a hub model, checks, without reading its weights, that it can be served, and returns its directory.

    The files go to `output`, by default the hub client's cache. Raises CheckpointError.
    """
    directory = fetch(model, revision, output)
    config, _ = describe(directory)
    open_checked(directory, config)
    return directory
