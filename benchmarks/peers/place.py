"""Where the peers with transformers compute: in bfloat16 on the GPU if there is one, else in float32 on the CPU."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from peers.protocol import Options

HAS_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if HAS_CUDA else "cpu"
DTYPE = torch.bfloat16 if HAS_CUDA else torch.float32


def load(options: Options) -> Any:  # noqa: ANN401 - transformers types fit no call
    """The checkpoint's model, ready to compute."""
    torch.set_num_threads(options.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=DTYPE)
    return model.to(DEVICE)
