"""A checkpoint that several tests of this folder read."""

from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default checkpoint, in a directory with dots in its name; tests must not change it."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "Tiny-0.1B.Chat")
