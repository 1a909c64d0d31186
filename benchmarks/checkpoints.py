"""The random checkpoints for the experiments, which are made when they are first needed.

DIRECTORY/mid and DIRECTORY/full contain `checkpoint/`, which `random_checkpoint.py` writes, and the conversions that
`convert.py` makes of it. The full shape takes 20 GB of disk with its GGUF files, 9 GB without.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from index_grpc.model.weight_files import WEIGHT_FILES

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE / ".checkpoints"


def converted(shape: str, directory: Path = CHECKPOINTS, gguf: Sequence[str] = ("f32", "q8_0")) -> Path:
    """The directory of a shape, with `llama/` and the given GGUF files."""
    place = directory / shape
    source = place / "checkpoint"
    if not any((source / name).exists() for name in WEIGHT_FILES):
        _run("random_checkpoint.py", shape, str(source))
    missing = [kind for kind in gguf if not (place / f"{kind}.gguf").exists()]
    if missing or not (place / "llama" / "model.safetensors.index.json").exists():
        _run("convert.py", str(source), str(place), "--gguf", *missing)
    return place


def _run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True, stdout=sys.stderr)
