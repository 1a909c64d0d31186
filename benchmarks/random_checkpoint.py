"""Writes a checkpoint with random weights in the real model's shape, or smaller, to measure speed and memory with.

Speed does not depend on the values of weights. The tokenizer is that of the demo model, so it accepts prompts; the
answers are random.

    python benchmarks/random_checkpoint.py full /tmp/full     # 2.2 G parameters, 4.4 GB
    python benchmarks/random_checkpoint.py mid /tmp/mid       # 110 M parameters, 0.2 GB
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from index_grpc.model.checkpoint import expected_tensors
from index_grpc.model.config import ModelConfig, read_config

DEMO = Path(__file__).resolve().parents[1] / "index_grpc" / "demo_checkpoint"

SHAPES = {
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 2000,
    },
    "mid": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 16000,
    },
    "full": {
        "hidden_size": 2048,
        "intermediate_size": 5888,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 65029,
    },
}
CONTEXT_LENGTH = 4096
SCALE = 0.02
WEIGHTS = "model.safetensors"


def write(shape: str, directory: Path, seed: int) -> None:
    """Writes config, tokenizer and weights, in bfloat16 like the real model."""
    write_companions(shape, directory)
    save_file(dict(random_tensors(read_config(directory), seed)), directory / WEIGHTS, metadata={"format": "pt"})


def write_companions(shape: str, directory: Path) -> None:
    """Writes everything except the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads((DEMO / "config.json").read_text()) | SHAPES[shape]
    config |= {"max_position_embeddings": CONTEXT_LENGTH, "max_length": CONTEXT_LENGTH}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(DEMO / name, directory / name)


def random_tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Weights by name; drawn on the GPU if there is one, which takes a second in the full shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    for name, size in tqdm(expected_tensors(config).items(), unit="tensor"):
        if len(size) > 1:
            noise = torch.empty(size, dtype=torch.bfloat16, device=device).normal_(generator=generator)
            yield name, noise.mul_(SCALE).cpu()
        else:
            yield name, torch.ones(size, dtype=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.shape, options.directory, options.seed)


if __name__ == "__main__":
    main()
