"""Logits to token ids: one vectorised pass in which every row has its own parameters.

B is the number of rows, V the size of the vocabulary. The order is that of transformers: penalties, temperature, top_k,
top_p, min_p. Nothing here depends on which rows share a pass, and the random number of a draw is a function of
(seed, step) alone, so a seeded request draws the same tokens in any company.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.contract import Candidate, SamplingParams, Token
from index_grpc.engine.sequence import Sequence

NUM_CANDIDATES = 64
"""Rows with a top_k up to this are drawn from their likeliest tokens; others need their whole vocabulary sorted."""

_MASK_64 = (1 << 64) - 1


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on its arguments alone (SplitMix64 of both)."""
    z = (((seed << 32) | step) + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Knobs:
    """The parameters of B rows, [B, 1] each, float64."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    frequency_penalty: Tensor
    presence_penalty: Tensor

    @classmethod
    def of(cls, table: Tensor) -> "Knobs":
        """Columns of a table [B, 7] in the order of the fields."""
        return cls(*table.split(1, dim=1))


def _knobs(params: SamplingParams) -> list[float]:
    greedy = params.temperature == 0.0
    return [
        1.0 if greedy else params.temperature,
        params.top_p,
        1 if greedy else params.top_k,
        params.min_p,
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
    ]


def _is_penalised(params: SamplingParams) -> bool:
    return bool(params.repetition_penalty != 1.0 or params.frequency_penalty or params.presence_penalty)


def _is_narrow(params: SamplingParams, num_candidates: int) -> bool:
    return 0 < params.top_k <= num_candidates or params.temperature == 0.0


class Sampler:
    """Draws the next tokens, and keeps for each slot its parameters and which tokens have occurred."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.knobs = torch.zeros(num_slots, len(Knobs.__slots__), dtype=torch.float64, device=device)
        self.occurred = torch.zeros(num_slots, vocab_size, dtype=torch.bool, device=device)
        """Tokens of prompt and answer."""
        self.counts = torch.zeros(num_slots, vocab_size, dtype=torch.float32, device=device)
        """How often each token occurs in the answer."""

    def open(self, sequence: Sequence) -> None:
        """Sets a slot up for a sequence that has generated nothing yet."""
        slot, request = sequence.slot, sequence.request
        self.knobs[slot] = torch.tensor(_knobs(request.sampling), dtype=torch.float64)
        self.counts[slot] = 0
        self.occurred[slot] = False
        self.occurred[slot, torch.tensor(request.prompt_ids, device=self.device)] = True

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Token]:
        """The next token of each sequence from its row of logits [B, V], float32.

        Raises FloatingPointError if a row holds a number that is not one.
        """
        slots = torch.tensor([s.slot for s in sequences], device=self.device)
        knobs = self.knobs[slots]  # [B, 7]
        penalised = any(_is_penalised(s.request.sampling) for s in sequences)
        scores = self._penalise(logits, slots, Knobs.of(knobs)) if penalised else logits
        draws = [uniform(s.request.sampling.seed, s.num_generated) for s in sequences]
        ids = self._draw(scores, sequences, knobs, torch.tensor(draws, dtype=torch.float64, device=self.device))
        tokens = with_logprobs(ids, logits, sequences)
        self.occurred[slots, ids] = True
        self.counts[slots, ids] += 1
        return tokens

    def _penalise(self, logits: Tensor, slots: Tensor, knobs: Knobs) -> Tensor:
        counts = self.counts[slots]
        limits = torch.finfo(logits.dtype)
        factor = torch.where(self.occurred[slots], knobs.repetition_penalty.clamp(min=limits.tiny).float(), 1.0)
        scores = torch.where(logits < 0, logits * factor, logits / factor)
        scores = torch.where(factor == 1, scores, scores.clamp(limits.min, limits.max))  # a tiny penalty overflows
        return scores - counts * knobs.frequency_penalty.float() - (counts > 0) * knobs.presence_penalty.float()

    def _draw(self, scores: Tensor, sequences: list[Sequence], knobs: Tensor, draws: Tensor) -> Tensor:
        """The chosen ids [B]: rows with a small top_k from their candidates, the others from everything."""
        num_candidates = min(NUM_CANDIDATES, self.vocab_size)
        narrow = torch.tensor([_is_narrow(s.request.sampling, num_candidates) for s in sequences], device=self.device)
        ids = torch.empty(len(sequences), dtype=torch.long, device=self.device)
        for rows, limit in ((narrow.nonzero()[:, 0], num_candidates), ((~narrow).nonzero()[:, 0], self.vocab_size)):
            if len(rows):
                best, candidates = ranked(scores[rows], limit)
                ids[rows] = candidates.gather(1, choose(best, Knobs.of(knobs[rows]), draws[rows]))[:, 0]
        return ids


def ranked(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The `limit` likeliest tokens of each row [B, V], likeliest first: scores and ids, [B, limit] each."""
    if limit == scores.shape[1]:
        best, ids = scores.sort(dim=1, descending=True, stable=True)
    else:
        best, ids = scores.topk(limit, dim=1)
    if not bool(best[:, 0].isfinite().all()):  # sorts before all numbers, so one look finds it
        raise FloatingPointError("the model's output is not a number")
    return best.double(), ids


def choose(best: Tensor, knobs: Knobs, draws: Tensor) -> Tensor:
    """Which place [B, 1] of each row of ranked scores [B, n] the draw [B] falls on."""
    places = torch.arange(best.shape[1], device=best.device)
    limit = torch.where(knobs.top_k > 0, knobs.top_k, float(best.shape[1]))
    scaled = ((best - best[:, :1]) / knobs.temperature).masked_fill(places >= limit, -torch.inf)  # the first is 0
    shares = scaled.softmax(dim=1)
    before = shares.cumsum(dim=1) - shares
    kept = ((before < knobs.top_p) & (shares >= knobs.min_p * shares[:, :1])) | (places == 0)
    reached = shares.masked_fill(~kept, 0.0).cumsum(dim=1)
    place = (reached <= draws[:, None] * reached[:, -1:]).sum(dim=1, keepdim=True)
    return place.clamp(max=best.shape[1] - 1)


def with_logprobs(ids: Tensor, logits: Tensor, sequences: list[Sequence]) -> list[Token]:
    """Tokens of the chosen ids [B], with log-probabilities from logits [B, V] for the sequences that asked."""
    tokens = [Token(token_id) for token_id in ids.tolist()]
    for row, sequence in enumerate(sequences):
        if sequence.request.logprobs:
            logprobs = logits[row].log_softmax(dim=0)  # [V]
            values, likeliest = logprobs.topk(min(sequence.request.top_logprobs, logits.shape[1]))
            top = tuple(map(Candidate, likeliest.tolist(), values.tolist()))
            tokens[row] = Token(tokens[row].id, float(logprobs[tokens[row].id]), top)
    return tokens
