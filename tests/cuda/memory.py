"""Keys and values in blocks for tests of attention, and the same attention with PyTorch."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from index_grpc.cuda.decode_attention import Rows, Scratch, decode_attention, work_items
from index_grpc.cuda.pool import BLOCK_TOKENS, BlockPool
from index_grpc.cuda.prefill_attention import Tokens, prefill_attention, programs_of

HEADS, HEAD_DIM = 2, 32
CONTEXT = 18 * BLOCK_TOKENS
LAYER, NUM_LAYERS = 1, 2


@dataclass(frozen=True)
class Piece:
    """Tokens of a slot's sequence from a position on: their queries, keys and values, [T, H + 2K, D]."""

    slot: int
    start: int
    qkv: Tensor


class Memory:
    """A pool with the blocks of each slot in random order. Blocks that are not written yet contain NaN."""

    def __init__(
        self,
        device: torch.device,
        kv_heads: int,
        num_slots: int,
        dtype: torch.dtype = torch.float32,
        head_dim: int = HEAD_DIM,
    ) -> None:
        self.device, self.dtype, self.kv_heads, self.nobody = device, dtype, kv_heads, num_slots
        self.head_dim = head_dim
        per_slot = CONTEXT // BLOCK_TOKENS
        heads = (NUM_LAYERS, kv_heads, self.head_dim)
        self.cache = BlockPool(num_slots * per_slot, num_slots + 1, CONTEXT, heads=heads, device=device, dtype=dtype)
        self.cache.pool.fill_(torch.nan)
        blocks = random.Random(7).sample(range(num_slots * per_slot), num_slots * per_slot)
        self.cache.tables[:num_slots] = self._ints(blocks).view(num_slots, per_slot)
        exponents = torch.arange(0, self.head_dim, 2) / self.head_dim
        angles = torch.outer(torch.arange(CONTEXT), 10000.0**-exponents).to(device)
        self.rotary = (angles.cos(), angles.sin())
        self.scratch = Scratch(16, HEADS, self.head_dim, CONTEXT, device)

    def random(self, num_tokens: int, seed: int) -> Tensor:
        """Random queries, keys and values of `num_tokens` tokens."""
        generator = torch.Generator().manual_seed(seed)
        shape = (num_tokens, HEADS + 2 * self.kv_heads, self.head_dim)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention over a whole sequence [T, H + 2K, D] with PyTorch: [T, H, D], float32."""
        queries, _, _ = qkv.split([HEADS, self.kv_heads, self.kv_heads], dim=1)
        keys, values = self.kept(qkv)
        tensors = (self._turned(queries.float()), keys.float(), values.float())
        heads = [tensor.transpose(0, 1)[None] for tensor in tensors]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1)

    def kept(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The rotated keys, and the values, that the sequence's blocks should contain: [T, K, D] each."""
        _, keys, values = qkv.split([HEADS, self.kv_heads, self.kv_heads], dim=1)
        return self._turned(keys.float()).to(self.dtype), values

    def stored(self, slot: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The keys and values that the slot's blocks contain: [T, K, D] each."""
        blocks = self.cache.pool[self.cache.tables[slot].long(), LAYER]  # [blocks, 2, K, BLOCK, D]
        keys, values = blocks.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :num_tokens]
        return keys, values

    def fill(self, slot: int, qkv: Tensor) -> None:
        """Writes a sequence's keys and values to its slot's blocks."""
        for position, kept in enumerate(zip(*self.kept(qkv), strict=True)):
            block = int(self.cache.tables[slot, position // BLOCK_TOKENS])
            self.cache.pool[block, LAYER, :, :, position % BLOCK_TOKENS] = torch.stack(kept)

    def decode(self, pieces: list[Piece | None]) -> Tensor:
        """Attention of one token in each row, [M, H, D]; None is an unused row."""
        positions = [piece.start if piece else -1 for piece in pieces]
        items = work_items([position + 1 for position in positions], self.scratch.splits).tolist()
        slots = [piece.slot if piece else self.nobody for piece in pieces]
        rows = Rows(*map(self._ints, (slots, positions, items, [len(items)])))
        unused = torch.full_like(self.random(1, 0), torch.nan)
        qkv = torch.cat([piece.qkv if piece else unused for piece in pieces])
        outputs = torch.zeros(len(pieces), HEADS, self.head_dim, device=self.device, dtype=self.dtype)
        return decode_attention(LAYER, qkv, self.cache, rows, self.rotary, self.scratch, outputs)

    def prefill(self, pieces: list[Piece], unused: int = 0) -> list[Tensor]:
        """Attention of pieces of prompts in one step, [T, H, D] each; `unused` tokens fill up the step."""
        slots: list[int] = []
        positions: list[int] = []
        for piece in pieces:
            count = len(piece.qkv)
            slots += [piece.slot] * count
            positions += range(piece.start, piece.start + count)
        counts = [len(piece.qkv) for piece in pieces]
        tokens = Tokens(
            self._ints(slots + [self.nobody] * unused),
            self._ints(positions + [0] * unused),
            self._ints(programs_of(counts) + [(0, 0)] * (unused > 0)),
        )
        qkv = torch.cat([*(piece.qkv for piece in pieces), self.random(unused, 1)])
        outputs = torch.zeros(len(qkv), HEADS, self.head_dim, device=self.device, dtype=self.dtype)
        prefill_attention(LAYER, qkv, self.cache, tokens, self.rotary, outputs)
        return list(outputs[: sum(counts)].split(counts))

    def _turned(self, heads: Tensor) -> Tensor:
        cosines, sines = (table[: len(heads), None] for table in self.rotary)
        left, right = heads.chunk(2, dim=2)
        return torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=2)

    def _ints(self, numbers: object) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.device)
