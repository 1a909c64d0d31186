"""Chooses the device that computes, and its dtype."""

import torch

from index_grpc.errors import StartupError
from index_grpc.settings import ServeSettings

CPU = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """Returns the device of a `--device` setting. Raises StartupError if it does not exist."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name if ":" in name or name == "cpu" else f"{name}:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = f"PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here"
        raise StartupError(f"device {name}: {there}; use --device cpu, or install a driver and a CUDA build of PyTorch")
    return device


def on_cuda(settings: ServeSettings) -> bool:
    """Returns whether a GPU is to compute."""
    return choose_device(settings.device).type == "cuda"


def chosen_dtype(settings: ServeSettings, device: torch.device) -> torch.dtype:
    """Returns the dtype of the settings; by default bfloat16 on a GPU, float32 on a CPU."""
    default = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(settings.dtype, default)
