"""From settings to a loaded model with a worker: in this process or in one of its own."""

from pathlib import Path

from index_grpc.engine.process import start_process
from index_grpc.engine.worker import ThreadWorker
from index_grpc.server.app import Loaded
from index_grpc.settings import ServeSettings
from index_grpc.text.tokenizer import Tokenizer

NVIDIA_DRIVER = Path("/dev/nvidiactl")


def load(settings: ServeSettings) -> Loaded:
    """Loads what the settings name. Raises StartupError, in one sentence, if that is not possible."""
    if wants_process(settings):
        worker, ready = start_process(settings)
        return Loaded(ready.model, Tokenizer.load(ready.directory), ready.limits, worker)
    from index_grpc.loading import load_runner  # slow to import, and here not needed otherwise

    loaded = load_runner(settings)
    worker_here = ThreadWorker(loaded.runner, loaded.limits)
    return Loaded(loaded.model, Tokenizer.load(loaded.directory), loaded.limits, worker_here)


def wants_process(settings: ServeSettings) -> bool:
    """Whether the engine gets a process: as told, else where it will compute on CUDA.

    There steps are so short that sharing an interpreter with the server would stretch them.
    """
    if settings.engine_process is not None:
        return settings.engine_process
    return settings.device.startswith("cuda") or (settings.device == "auto" and NVIDIA_DRIVER.exists())
