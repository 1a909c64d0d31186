"""What int8 costs: its agreement with float32, compared with llama.cpp's Q8_0 of the same weights.

On the mid checkpoint, random prompts show how much the distributions differ. On the demo model, which is trained,
dialogues that it was not trained on show what that means for the perplexity of an answer.

    python benchmarks/quality.py
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import isa
import numpy
import torch
from checkpoints import CHECKPOINTS, converted
from environments import ENVIRONMENTS, interpreter
from report import Goal, Section, emit
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.nn import functional

from index_grpc.engine.runner import CpuRunner
from index_grpc.export.gguf_file import write_gguf
from index_grpc.loading import load_runner
from index_grpc.model.config import read_config
from index_grpc.settings import ServeSettings

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "demo"))

from dealer import Dealer  # noqa: E402
from layout import NO_TARGET, example  # noqa: E402

DEMO = HERE.parent / "index_grpc" / "demo_checkpoint"
NUM_DIALOGUES, SEED = 200, 12345
NUM_PROMPTS, PROMPT_TOKENS = 24, 48


def ours(model: Path, prompts: Sequence[Sequence[int]], quantize: str) -> Tensor:
    """Our logits after every token, [tokens of all prompts, vocab_size]."""
    runner = load_runner(ServeSettings(model=str(model), device="cpu", quantize=quantize)).runner
    assert isinstance(runner, CpuRunner)
    engine = runner.model
    parts = []
    for prompt in prompts:
        cache = engine.new_cache()
        blocks = range(-(-len(prompt) // engine.block_tokens))
        parts.append(engine.forward(prompt, [cache.place(blocks, 0, len(prompt))], range(len(prompt))).clone())
    return torch.cat(parts)


def llamacpp(gguf: Path, prompts: Sequence[Sequence[int]], environments: Path) -> Tensor | None:
    """llama.cpp's logits, or None if it is not installed."""
    python = interpreter(environments, isa.llamacpp())
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        command = [str(python), "-m", "peers.llamacpp_logits", str(gguf.resolve()), str(out)]
        asked = json.dumps({"prompts": prompts})
        subprocess.run(command, input=asked, text=True, check=True, stdout=sys.stderr, cwd=HERE)
        return torch.from_numpy(numpy.load(out))


def agreement(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The share of positions with the same likeliest token, and the mean of KL(wanted ‖ found) in nats."""
    same = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean().item()
    log_found, log_wanted = found.double().log_softmax(dim=1), wanted.double().log_softmax(dim=1)
    divergence = (log_wanted.exp() * (log_wanted - log_found)).sum(dim=1).mean().item()
    return same, divergence


def random_prompts(vocab_size: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(5, vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(NUM_PROMPTS)]


def perplexity(logits: Tensor, targets: Sequence[int]) -> float:
    """The perplexity of the answers. Each row of logits [tokens, vocab_size] has a target, NO_TARGET outside them."""
    wanted = torch.tensor(targets)
    told = wanted != NO_TARGET
    found: Tensor = functional.cross_entropy(logits[told].double(), wanted[told])
    return float(found.exp())


def dialogues() -> tuple[list[list[int]], list[int]]:
    """New random dialogues of the demo's corpus: the ids of each, and the targets of all."""
    dealer, tokenizer = Dealer(SEED), SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    examples = [example(tokenizer, dealer.conversation()) for _ in range(NUM_DIALOGUES)]
    return [one.ids for one in examples], [target for one in examples for target in one.targets]


@dataclass(frozen=True)
class Found:
    """How much one way of storing weights differs from float32 on one checkpoint."""

    name: str
    same: float
    divergence: float
    perplexity: float | None = None


def on_mid(options: argparse.Namespace) -> list[Found]:
    """The results of random prompts on random weights."""
    place = converted("mid", options.checkpoints)
    prompts = random_prompts(read_config(place / "llama").vocab_size)
    float32 = ours(place / "llama", prompts, "none")
    ways = {
        "int8": ours(place / "llama", prompts, "int8"),
        "llama.cpp F32": llamacpp(place / "f32.gguf", prompts, options.environments),
        "llama.cpp Q8_0": llamacpp(place / "q8_0.gguf", prompts, options.environments),
    }
    return [Found(name, *agreement(logits, float32)) for name, logits in ways.items() if logits is not None]


def on_demo(options: argparse.Namespace) -> list[Found]:
    """The results of dialogues on the trained demo model."""
    prompts, targets = dialogues()
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(DEMO, Path(folder) / "q8_0.gguf", "q8_0")
        float32 = ours(DEMO, prompts, "none")
        ways = {
            "float32": float32,
            "int8": ours(DEMO, prompts, "int8"),
            "llama.cpp Q8_0": llamacpp(Path(folder) / "q8_0.gguf", prompts, options.environments),
        }
    return [
        Found(name, *agreement(logits, float32), perplexity(logits, targets))
        for name, logits in ways.items()
        if logits is not None
    ]


def measure(options: argparse.Namespace) -> Section:
    mid, demo = on_mid(options), on_demo(options)
    by_name = {found.name: found for found in mid}
    other = by_name.get("llama.cpp Q8_0")
    ratio = by_name["int8"].divergence / other.divergence if other else None
    return Section(
        title="What int8 costs",
        about=f"Against float32: {NUM_PROMPTS} random prompts of {PROMPT_TOKENS} tokens on the mid checkpoint, and "
        f"{NUM_DIALOGUES} dialogues on the demo, where the perplexity is that of the answers.",
        command="python benchmarks/quality.py",
        columns=["", "same likeliest token", "mean KL, nats", "perplexity"],
        rows=[
            *_rows("mid", mid),
            *_rows("demo", demo),
        ],
        goals=[Goal.at_most("KL of int8 by llama.cpp Q8_0's, on mid", 1.3, ratio)],
        notes=[] if other else ["skipped: llama.cpp is not installed; python benchmarks/environments.py"],
        data={"mid": [asdict(one) for one in mid], "demo": [asdict(one) for one in demo]},
    )


def _rows(checkpoint: str, all_found: Sequence[Found]) -> list[list[str]]:
    return [
        [
            f"{checkpoint}: {found.name}",
            f"{found.same:.1%}",
            f"{found.divergence:.1e}",
            "" if found.perplexity is None else f"{found.perplexity:.4f}",
        ]
        for found in all_found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="default: benchmarks/.checkpoints")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="default: benchmarks/.environments")
    with torch.inference_mode():
        emit(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
