"""Several kinds of tokenizers."""

import pytest
from hypothesis import settings

from index_grpc.text.tokenizer import Tokenizer
from tests.checkpoints import make_tokenizer

# On a busy machine the duration of an example means nothing.
settings.register_profile("text", deadline=None)
settings.load_profile("text")

MAKES: dict[str, dict[str, bool]] = {
    "control": {},
    "user_defined": {"user_defined_markers": True},
    "no_bytes": {"byte_fallback": False},
    "user_defined_no_bytes": {"user_defined_markers": True, "byte_fallback": False},
    "dummy_prefix": {"dummy_prefix": True},
    "user_defined_dummy_prefix": {"user_defined_markers": True, "dummy_prefix": True},
}


@pytest.fixture(scope="session", params=MAKES)
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind of tokenizer in turn."""
    return Tokenizer(make_tokenizer(**MAKES[request.param]))


@pytest.fixture(scope="session", params=[make for make in MAKES if "no_bytes" not in make])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """In turn, each kind of tokenizer that can encode every character."""
    return Tokenizer(make_tokenizer(**MAKES[request.param]))
