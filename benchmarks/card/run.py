"""One run: what was asked for, and what has been found so far."""

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
"""For keys and values of either engine, where two share the card."""


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    sizes: Sizes
    only: tuple[str, ...]
    levels: tuple[int, ...]
    seconds: float
    """For each level."""
    rounds: int
    """Over the wire."""
    peers: tuple[str, ...]
    peer_seconds: float
    """For each peer, its start included."""
    profile: bool


class Run:
    """Measures part by part. Whatever fails in one is noted, and the others go on."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        """Makes the checkpoint and measures what the device can do at most."""
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
        """The parts in turn; the engine of one has left the device before the next begins."""
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
        """Decoding, then long prompts."""
        plan = self.plan
        if "ours" in plan.only:
            with self.part("ours"):
                async for row in decode.rows(door, plan.sizes, plan.levels, plan.seconds, self.floor):
                    self.add(row)
        if "prefill" in plan.only:
            with self.part("prefill"):
                self.add(await prefill.measure(door, plan.sizes, self.config, self.ceilings.flops_per_s))

    async def memory(self) -> None:
        """Many conversations in the room of a small card."""
        room = memory.room_bytes(self.plan.sizes, self.config)
        async with opened(self.settings(kv_memory_bytes=room)) as door:
            crowd = await memory.measure(door, self.plan.sizes)
        self.add(crowd.row)
        self.note(f"{crowd}; {room / 1e9:.1f} GB for keys and values")

    async def wire(self) -> None:
        """Over gRPC, beside the engine alone."""
        from card import wire  # needs gRPC and the client, which the other parts do not

        on_card = self.plan.sizes.device != "cpu"
        settings = self.settings(**({"kv_memory_bytes": WIRE_ROOM_BYTES} if on_card else {}))
        async with opened(settings) as door:
            async for row in wire.rows(door, flags(settings), self.plan.sizes, self.plan.rounds):
                self.add(row)

    def peers(self) -> None:
        """Those that compute on the same device."""
        from card import peers  # needs the client, for its words

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
        """Where a decode step's time goes."""
        from card import steps  # its engine takes the device's memory in this process

        levels = [min(level, self.plan.sizes.max_sequences) for level in PROFILED]
        for table in steps.tables(self.settings(engine_process=False), self.plan.sizes, levels):
            tell(table)
            self.profile.append(table)

    def settings(self, **changes: object) -> ServeSettings:
        """Of our engine."""
        chosen = {
            "model": str(self.directory),
            "device": self.plan.sizes.device,
            "engine_process": True,
            "max_sequences": self.plan.sizes.max_sequences,
            "prefix_reuse": False,
        }
        return ServeSettings.model_validate(chosen | changes)

    def floor(self, num_positions: int) -> float:
        """The fewest seconds in which memory can be read for a step."""
        return step_bytes(self.config, num_positions) / self.ceilings.copy_bytes_per_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Whatever fails in it is noted."""
        tell(f"=== {name}, after {time.perf_counter() - self.started:.0f} s")
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.note(f"{name} failed: {type(error).__name__}: {error}")

    def add(self, row: Row) -> None:
        """Keeps and tells."""
        self.rows.append(row)
        tell("  ".join(row.cells))

    def note(self, text: str) -> None:
        """Keeps and tells."""
        self.notes.append(text)
        tell(text)


def flags(settings: ServeSettings) -> list[str]:
    """What `index-grpc serve` is told, to run with these settings."""
    told = []
    for name, value in settings.model_dump(exclude_unset=True).items():
        flag = name.replace("_", "-")
        told += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return told


def tell(text: str) -> None:
    """Says how far it is."""
    print(text, file=sys.stderr, flush=True)
