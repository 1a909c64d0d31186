"""The limits of what the engine may hold at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may hold at once, and how prompts may be cut and shared."""

    context_length: int
    max_sequences: int
    max_waiting: int
    num_blocks: int
    """Blocks of the KV cache, enough for at least one whole context."""
    block_tokens: int
    """Positions of a block."""
    chunk_tokens: int
    """The most tokens that one step prefills."""
    alignment_tokens: int
    """Prompts are cut, and prefixes shared, only at multiples of this divisor of `chunk_tokens`; 1 allows any place."""
    answers_like_prompts: bool = False
    """Whether a token's bits are the same when decoded, one at a time, as when prefilled in a chunk."""
    least_shared_tokens: int = 1
    """A shorter common prefix is not shared: it would cost more than it saves."""
    max_waiting_tokens: int = 131_072
    """The most prompt tokens of all requests that have no token yet; a request is always taken if there is no other."""
    prefix_reuse: bool = True
    """Whether prefixes are shared, and kept after their sequences end."""

    @property
    def max_cache_tokens(self) -> int:
        """Positions in the KV cache."""
        return self.num_blocks * self.block_tokens
