"""Long prompts alone: the time to the last of their first tokens, compared with the least time for their products."""

import statistics

from card.door import Door
from card.row import PREFILL, Row
from card.sizes import Sizes
from card.work import prompt_flops
from index_grpc.model.config import ModelConfig

NUM_ROUNDS = 7


async def measure(door: Door, sizes: Sizes, config: ModelConfig, flops_per_s: float) -> Row:
    """Measures rounds of new prompts, all at once; `tokens_per_s` counts the tokens of prompts."""
    lengths = [sizes.prefill_tokens] * sizes.num_prefills
    seconds = []
    for number in range(NUM_ROUNDS + 1):
        found = await door.round(door.prompts(f"prefill/{number}", lengths), [1] * sizes.num_prefills)
        seconds.append(max(found.first_token_s))
    median = statistics.median(seconds[1:])
    share = prompt_flops(config, lengths) / flops_per_s / median
    return Row(PREFILL, sizes.num_prefills, tokens_per_s=sum(lengths) / median, first_token_s=median, share=share)
