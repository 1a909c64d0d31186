"""Where the kernels run: on a GPU if there is one, else in Triton's interpreter, on tensors of the processor."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """What the kernels of this folder run on."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def the_interpreter_behaves() -> Iterator[None]:
    from tests.cuda.interpreter import prepare_once, sum_in_order  # there may be no Triton

    with pytest.MonkeyPatch.context() as patch:
        sum_in_order(patch)
        prepare_once(patch)
        yield


@pytest.fixture(autouse=True)
def numpy_is_quiet() -> Iterator[None]:
    """The interpreter computes with NumPy, which warns of what kernels mask: 0 / 0, and infinities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
