"""Loads the model that the settings name, with a worker in this process or in a separate one."""

import os
from importlib.metadata import version
from pathlib import Path

from index_grpc.engine.process import start_process
from index_grpc.engine.worker import ThreadWorker
from index_grpc.errors import StartupError
from index_grpc.server.app import MakePort
from index_grpc.server.loaded import Loaded
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import Tokenizer

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
NVIDIA_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Where CUDA is available one of these exists; the second is that of Linux under Windows."""


def load(settings: ServeSettings) -> Loaded:
    """Loads the model that the settings name. Raises StartupError with one sentence if that is not possible."""
    if wants_process(settings):
        worker, ready = start_process(settings)
        return Loaded(ready.model, Tokenizer.load(ready.directory), ready.limits, worker)
    from index_grpc.loading import load_runner  # slow to import, and not needed with a separate process

    loaded = load_runner(settings)
    return Loaded(loaded.model, loaded.tokenizer, loaded.limits, ThreadWorker(loaded.runner, loaded.limits))


def extra_ports(settings: ServeSettings) -> list[MakePort]:
    """Returns factories of the ports besides gRPC's. Raises StartupError if a package for one is missing."""
    if settings.http_port is None:
        return []
    try:
        from index_grpc.http.port import HttpPort  # needed only for HTTP, and perhaps not installed
    except ModuleNotFoundError as error:
        remedy = "install it with  pip install 'index-grpc[http]'"
        raise StartupError(f"--http-port needs the extra http ({error.name} is missing); {remedy}") from None
    return [HttpPort]


def wants_process(settings: ServeSettings) -> bool:
    """Whether the engine gets a separate process: as the setting says, and by default if it will compute on CUDA.

    Steps on CUDA are so short that sharing an interpreter with the server would slow them down.
    """
    if settings.engine_process is not None:
        return settings.engine_process
    return settings.device.startswith("cuda") or (settings.device == "auto" and _may_have_cuda())


def _may_have_cuda() -> bool:
    """Guesses whether CUDA is available. Asking PyTorch would cost seconds and memory in this process too."""
    has_driver = any(driver.exists() for driver in NVIDIA_DRIVERS)
    return has_driver and not version("torch").endswith("+cpu") and os.environ.get(VISIBLE_DEVICES) not in ("", "-1")
