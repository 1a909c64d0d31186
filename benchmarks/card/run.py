"""One run: its plan, and its results so far."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from card import ceilings, checkpoint, decode, memory, prefill
from card.door import Door, opened
from card.row import Row
from card.sizes import Sizes
from card.work import step_bytes
from index_grpc.model.config import read_config
from index_grpc.settings import ServeSettings

PARTS = ("ours", "prefill", "memory", "peers", "wire")
PROFILED = (1, 64)
WIRE_ROOM_BYTES = 16 * 10**9
"""Bytes for keys and values of each engine when two share the GPU."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    sizes: Sizes
    only: tuple[str, ...]
    levels: tuple[int, ...]
    seconds: float
    """Seconds for each level."""
    rounds: int
    """Rounds over gRPC."""
    peers: tuple[str, ...]
    peer_seconds: float
    """Seconds for each peer, including its start."""
    profile: bool


class Run:
    """Measures part by part. If one fails, that is recorded, and the others go on."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        """Makes the checkpoint and measures the most that the device can do."""
        self.plan, self.directory = plan, directory
        self.started = time.perf_counter()
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.profile: list[str] = []
        self.note(f"the checkpoint was made in {checkpoint.made(plan.sizes.shape, directory):.1f} s")
        self.config = read_config(directory)
        device = torch.device(plan.sizes.device)
        self.ceilings = ceilings.measure(device, plan.sizes.copied_bytes, plan.sizes.matrix_side)
        self.note(str(self.ceilings))

    async def measure(self) -> None:
        """Measures the parts in turn; the engine of one part has freed the device before the next begins."""
        if {"ours", "prefill"} & set(self.plan.only):
            with self.part("engine"):
                async with opened(self.settings()) as door:
                    await self.engine(door)
        if "memory" in self.plan.only:
            with self.part("memory"):
                await self.memory()
        if "peers" in self.plan.only:
            with self.part("peers"):
                self.peers()
        if "wire" in self.plan.only:
            with self.part("wire"):
                await self.wire()
        if self.plan.profile:
            with self.part("profile"):
                self.steps()

    async def engine(self, door: Door) -> None:
        """Measures decoding, then long prompts."""
        plan = self.plan
        if "ours" in plan.only:
            with self.part("ours"):
                async for row in decode.rows(door, plan.sizes, plan.levels, plan.seconds, self.floor):
                    self.add(row)
        if "prefill" in plan.only:
            with self.part("prefill"):
                self.add(await prefill.measure(door, plan.sizes, self.config, self.ceilings.flops_per_s))

    async def memory(self) -> None:
        """Measures many conversations with the memory of a small GPU."""
        room = memory.room_bytes(self.plan.sizes, self.config)
        async with opened(self.settings(kv_memory_bytes=room)) as door:
            crowd = await memory.measure(door, self.plan.sizes)
        self.add(crowd.row)
        self.note(f"{crowd}; {room / 1e9:.1f} GB for keys and values")

    async def wire(self) -> None:
        """Measures gRPC, compared with the engine alone."""
        from card import wire  # needs gRPC and the client, which the other parts do not

        on_card = self.plan.sizes.device != "cpu"
        settings = self.settings(**({"kv_memory_bytes": WIRE_ROOM_BYTES} if on_card else {}))
        async with opened(settings) as door:
            async for row in wire.rows(door, flags(settings), self.plan.sizes, self.plan.rounds):
                self.add(row)

    def peers(self) -> None:
        """Measures the peers that compute on the same device."""
        from card import peers  # imports the load generator's words, which needs the client

        plan, (fewest, most) = self.plan, self.plan.sizes.answer_tokens
        self.note(
            f"peers answer with {plan.sizes.mean_answer_tokens} tokens, ours with {fewest} to {most}; the pipeline "
            "answers one request after the other, so its tokens/s are the same however many ask; continuous batching "
            "drops the repetition penalty"
        )
        for found in peers.rows(self.directory, plan.peers, plan.sizes, plan.peer_seconds):
            if isinstance(found, Row):
                self.add(found)
            else:
                self.note(found)

    def steps(self) -> None:
        """Measures the time of each kernel in a decode step."""
        from card import steps  # the engine there uses the device's memory in this process

        levels = [min(level, self.plan.sizes.max_sequences) for level in PROFILED]
        for table in steps.tables(self.settings(engine_process=False), self.plan.sizes, levels):
            tell(table)
            self.profile.append(table)

    def settings(self, **changes: object) -> ServeSettings:
        """The settings of our engine."""
        chosen = {
            "model": str(self.directory),
            "device": self.plan.sizes.device,
            "engine_process": True,
            "max_sequences": self.plan.sizes.max_sequences,
            "prefix_reuse": False,
        }
        return ServeSettings.model_validate(chosen | changes)

    def floor(self, num_positions: int) -> float:
        """The fewest seconds in which the memory for a step can be read."""
        return step_bytes(self.config, num_positions) / self.ceilings.copy_bytes_per_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Records an exception in the block, and lets the run go on."""
        tell(f"=== {name}, after {time.perf_counter() - self.started:.0f} s")
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.note(f"{name} failed: {type(error).__name__}: {error}")

    def add(self, row: Row) -> None:
        """Records and prints it."""
        self.rows.append(row)
        tell("  ".join(row.cells))

    def note(self, text: str) -> None:
        """Records and prints it."""
        self.notes.append(text)
        tell(text)


def flags(settings: ServeSettings) -> list[str]:
    """The flags with which `index-grpc serve` has these settings."""
    told = []
    for name, value in settings.model_dump(exclude_unset=True).items():
        flag = name.replace("_", "-")
        told += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return told


def tell(text: str) -> None:
    """Prints progress."""
    print(text, file=sys.stderr, flush=True)
