"""The sizes of each part: on the GPU, and in a short trial run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of all parts; lengths are in tokens."""

    shape: str
    """The shape of the checkpoint; see `random_checkpoint.py`."""
    device: str
    copied_bytes: int
    matrix_side: int
    max_sequences: int
    levels: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: tuple[int, int]
    """The fewest and the most."""
    long_level: int
    long_prompt_tokens: int
    long_answer_tokens: int
    num_prefills: int
    prefill_tokens: int
    num_conversations: int
    conversation_tokens: tuple[int, int]
    """Tokens of a prompt and of an answer."""
    wire_levels: tuple[int, ...]
    wire_answer_tokens: int
    small_card_bytes: int
    """Memory of the small GPU."""
    overhead_bytes: int
    """Memory that such a GPU needs besides weights, keys and values."""

    @property
    def mean_answer_tokens(self) -> int:
        """The mean length of an answer."""
        return sum(self.answer_tokens) // 2


CARD = Sizes(
    shape="full",
    device="cuda",
    copied_bytes=4 * 2**30,
    matrix_side=8192,
    max_sequences=256,
    levels=(1, 8, 32, 64, 128, 256),
    prompt_tokens=64,
    answer_tokens=(64, 128),
    long_level=64,
    long_prompt_tokens=480,
    long_answer_tokens=64,
    num_prefills=4,
    prefill_tokens=1024,
    num_conversations=100,
    conversation_tokens=(250, 250),
    wire_levels=(1, 64, 256),
    wire_answer_tokens=128,
    small_card_bytes=int(24e9 * 0.95),
    overhead_bytes=int(1.2e9),
)

SMOKE = Sizes(
    shape="tiny",
    device="cpu",
    copied_bytes=2**24,
    matrix_side=64,
    max_sequences=8,
    levels=(1, 4),
    prompt_tokens=16,
    answer_tokens=(8, 12),
    long_level=4,
    long_prompt_tokens=100,
    long_answer_tokens=8,
    num_prefills=2,
    prefill_tokens=128,
    num_conversations=6,
    conversation_tokens=(40, 20),
    wire_levels=(4,),
    wire_answer_tokens=8,
    small_card_bytes=2**28,
    overhead_bytes=2**26,
)
