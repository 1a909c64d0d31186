"""Computes how much the engine may hold, from the settings and the free memory."""

import torch

from index_grpc.engine.limits import Limits
from index_grpc.engine.runner import Computes
from index_grpc.errors import StartupError
from index_grpc.machine import available_bytes
from index_grpc.model.config import position_bytes
from index_grpc.settings import ServeSettings

CHUNK_TOKENS = {"cpu": 64, "cuda": 1024}
"""Prompt tokens of one step: enough to keep the device busy, few enough that running streams hardly wait."""

MAX_SEQUENCES = {"cpu": 32, "cuda": 128}
"""Default of sequences computed at once: with more, each caller's tokens would come too slowly."""

LEAST_SHARED_TOKENS = 16
"""All prompts begin with the same turn marker; copying a block for so few tokens takes longer than computing."""

CACHE_SHARE = {"cpu": 0.8, "cuda": 0.9}
"""Default share that the KV cache takes of the memory that is free once the weights are loaded."""


def limits_for(model: Computes, settings: ServeSettings, taken_bytes: int = 0) -> Limits:
    """Returns the engine's limits by the settings and the free memory, of which steps take `taken_bytes`."""
    chunk_tokens = CHUNK_TOKENS[model.device.type]
    return Limits(
        context_length=model.config.context_length,
        max_sequences=max_sequences(settings, model.device),
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        num_blocks=num_cache_blocks(model, settings, taken_bytes),
        block_tokens=model.block_tokens,
        chunk_tokens=chunk_tokens,
        alignment_tokens=1 if model.cuts_independent else chunk_tokens,
        answers_like_prompts=model.answers_like_prompts,
        least_shared_tokens=LEAST_SHARED_TOKENS,
        prefix_reuse=settings.prefix_reuse,
    )


def max_sequences(settings: ServeSettings, device: torch.device) -> int:
    """Returns how many sequences are computed at once."""
    return settings.max_sequences or MAX_SEQUENCES[device.type]


def num_cache_blocks(model: Computes, settings: ServeSettings, taken_bytes: int = 0) -> int:
    """Returns how many blocks the memory for the KV cache holds.

    Unless the settings give its bytes, it has at most two whole contexts for each running sequence, one of them for a
    kept prefix. Raises StartupError if not even one context fits, or if the bytes of the settings are not free.
    """
    block_bytes = model.block_tokens * position_bytes(model.config, model.dtype.itemsize)
    longest = -(-model.config.context_length // model.block_tokens)
    needs = f"one conversation of {model.config.context_length} tokens needs"
    free = free_bytes(model.device)
    left = max(0, free - taken_bytes)
    if (asked := settings.kv_memory_bytes) is not None:
        if asked < longest * block_bytes:
            needed = f"{needs} {longest * block_bytes} bytes for its keys and values"
            raise StartupError(f"--kv-memory-bytes {asked} is too little: {needed}; allow as many")
        if asked > left:
            by = "weights and steps" if taken_bytes else "the weights"
            there = f"{left} are left on {model.device} by {by}"
            raise StartupError(f"--kv-memory-bytes {asked} is too much: {there}; allow fewer or free some memory")
        return asked // block_bytes
    share = settings.kv_memory_fraction or CACHE_SHARE[model.device.type]
    fitting = int(left * share) // block_bytes
    if fitting < longest:
        there = _told(model.device, free, taken_bytes, share)
        remedy = _remedy(taken_bytes, may_raise=longest * block_bytes <= left)
        raise StartupError(f"{there}; {needs} {in_units(longest * block_bytes)} for them; {remedy}")
    return min(fitting, 2 * max_sequences(settings, model.device) * longest)


def free_bytes(device: torch.device) -> int:
    """Returns the free memory of a device, in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def _told(device: torch.device, free: int, taken: int, share: float) -> str:
    """Returns a sentence on how much memory there is for keys and values."""
    steps, of = (f", of which steps take {in_units(taken)}", "the rest") if taken else ("", "them")
    may_hold = f"--kv-memory-fraction {share:g} of {of} may hold keys and values"
    return f"{in_units(free)} are free on {device} beside the weights{steps}; {may_hold}"


def _remedy(taken: int, *, may_raise: bool) -> str:
    """Returns what the operator can do to give them more."""
    ways = {"free some memory": True, "raise the fraction": may_raise, "allow fewer --max-sequences": bool(taken)}
    return f"{', '.join(way for way, helps in ways.items() if helps)} or use another device"


def in_units(num_bytes: float) -> str:
    """Formats a size for people to read."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
