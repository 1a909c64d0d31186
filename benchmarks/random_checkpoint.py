"""Writes a checkpoint with random weights in the shape of the real model, or smaller, to measure speed and memory on.

Speed does not depend on the weights' values. The tokenizer is the demo's, so prompts can be asked; answers are noise.

    python benchmarks/random_checkpoint.py full /tmp/full     # 2.2 G parameters, 4.4 GB
    python benchmarks/random_checkpoint.py mid /tmp/mid       # 110 M parameters, 0.2 GB
"""

import argparse
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from tqdm import tqdm

from index_grpc.model.checkpoint import expected_tensors
from index_grpc.model.config import read_config

DEMO = Path(__file__).resolve().parents[1] / "index_grpc" / "demo_checkpoint"

SHAPES = {
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


def write(shape: str, directory: Path, seed: int) -> None:
    """Writes config, tokenizer and weights, in bfloat16 as the real model's."""
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads((DEMO / "config.json").read_text()) | SHAPES[shape]
    config |= {"max_position_embeddings": CONTEXT_LENGTH, "max_length": CONTEXT_LENGTH}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(DEMO / name, directory / name)
    generator = torch.Generator().manual_seed(seed)
    tensors: OrderedDict[str, torch.Tensor] = OrderedDict()
    expected = expected_tensors(read_config(directory))
    for name, size in tqdm(expected.items(), unit="tensor"):
        noise = torch.empty(size, dtype=torch.bfloat16).normal_(generator=generator)
        tensors[name] = noise * SCALE if len(size) > 1 else torch.ones(size, dtype=torch.bfloat16)
    torch.save(tensors, directory / "pytorch_model.bin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.shape, options.directory, options.seed)


if __name__ == "__main__":
    main()
