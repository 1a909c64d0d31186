"""Chooses where the kernels run: on a GPU if there is one, else in Triton's interpreter on CPU tensors."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device on which the kernels run."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def patched_interpreter() -> Iterator[None]:
    from tests.cuda.interpreter import prepare_once, sum_in_order  # Triton may be missing

    with pytest.MonkeyPatch.context() as patch:
        sum_in_order(patch)
        prepare_once(patch)
        yield


@pytest.fixture(autouse=True)
def numpy_warnings_ignored() -> Iterator[None]:
    """Silences NumPy, which in the interpreter warns of values that kernels mask: 0 / 0, and infinities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
