"""Checkpoints that several tests of this floor read."""

from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default checkpoint in a directory with dots in its name; read only."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "Tiny-0.1B.Chat")
