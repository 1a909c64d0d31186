"""Logits to token ids: one vectorised pass in which every row has its own parameters.

B is the number of rows, V the size of the vocabulary. The order is that of transformers: penalties, temperature, top_k,
top_p, min_p. Nothing here depends on which rows share a pass, and the random number of a draw is a function of
(seed, step) alone, so a seeded request draws the same tokens in any company.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from index_grpc.contract import Candidate, SamplingParams, Token
from index_grpc.engine.sequence import Sequence
from index_grpc.model.ranking import NUM_CANDIDATES, History, Rank, Wish, penalised, rank
from index_grpc.model.sending import sent

SMALLEST_PENALTY = torch.finfo(torch.float32).tiny
"""A repetition penalty below it would become 0 in float32, and a logit of 0 divided by it no number."""

_MASK_64 = (1 << 64) - 1


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on its arguments alone (SplitMix64 of both)."""
    z = (((seed << 32) | step) + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Knobs:
    """The parameters of B rows and the draw that falls on each, [B, 1] each, float64."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    draw: Tensor

    @classmethod
    def of(cls, draws: Iterable[tuple[SamplingParams, int]], device: torch.device) -> "Knobs":
        """Those of so many tokens: how each is drawn, and which one of its answer it is."""
        table = sent([_knobs(params, step) for params, step in draws], device, torch.float64)
        return cls(*table.split(1, dim=1))


def _knobs(params: SamplingParams, step: int) -> tuple[float, ...]:
    draw = uniform(params.seed, step)
    if params.temperature == 0.0:
        return 1.0, params.top_p, 1, params.min_p, draw
    return params.temperature, params.top_p, params.top_k, params.min_p, draw


def wish(sequence: Sequence) -> Wish:
    """What is asked of the ranking for a sequence's next token."""
    params = sequence.request.sampling
    return Wish(
        sequence.slot,
        max(params.repetition_penalty, SMALLEST_PENALTY),
        params.frequency_penalty,
        params.presence_penalty,
        num_wanted=1 if params.temperature == 0.0 else min(max(params.top_k, 1), NUM_CANDIDATES),
    )


def _is_narrow(sequence: Sequence, vocab_size: int) -> bool:
    """Whether a small top_k leaves so few tokens that the others need no place in an order."""
    params = sequence.request.sampling
    return 0 < params.top_k <= min(NUM_CANDIDATES, vocab_size) or params.temperature == 0.0


class Sampler:
    """Draws the next tokens, and keeps for each slot which tokens have occurred."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device, rank: Rank = rank) -> None:
        self.vocab_size, self.device, self._rank = vocab_size, device, rank
        self.history = History(num_slots, vocab_size, device)
        self._told: list[tuple[int, int] | None] = [None] * num_slots
        """Whose history a slot holds, and how many tokens of the answer it knows."""

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> list[Token]:
        """The next token of each sequence from its row of logits [B, V], float32.

        Raises FloatingPointError if a row holds a number that is not one.
        """
        if not sequences:
            return []
        for sequence in sequences:
            self._open(sequence)
        ids = torch.empty(len(sequences), dtype=torch.long, device=self.device)
        narrow = [_is_narrow(sequence, self.vocab_size) for sequence in sequences]
        for kind, draw in ((True, self._draw_from_candidates), (False, self._draw_from_all)):
            rows = [row for row, is_narrow in enumerate(narrow) if is_narrow is kind]
            if len(rows) == len(sequences):
                ids = draw(logits, sequences)
            elif rows:
                ids[rows] = draw(logits[rows], [sequences[row] for row in rows])
        self._add(sequences, ids)
        return with_logprobs(ids, logits, sequences)

    def _open(self, sequence: Sequence) -> None:
        """Tells its slot what has occurred, if it does not know: at first, and after a failure or preemption."""
        if self._told[sequence.slot] != (sequence.number, sequence.num_generated):
            answer_ids = sequence.ids[sequence.num_prompt :]
            self.history.open(sequence.slot, sequence.request.prompt_ids, answer_ids)

    def _add(self, sequences: list[Sequence], ids: Tensor) -> None:
        self.history.add(sent([sequence.slot for sequence in sequences], self.device), ids)
        for sequence in sequences:
            self._told[sequence.slot] = (sequence.number, sequence.num_generated + 1)

    def _draw_from_candidates(self, logits: Tensor, sequences: list[Sequence]) -> Tensor:
        """The chosen ids [B] where a small top_k leaves the likeliest only."""
        return _drawn(*self._rank(logits, self.history, [wish(s) for s in sequences]), sequences)

    def _draw_from_all(self, logits: Tensor, sequences: list[Sequence]) -> Tensor:
        """The chosen ids [B] where any token may come."""
        scores = penalised(logits, self.history, [wish(s) for s in sequences])
        return _drawn(*scores.sort(dim=1, descending=True, stable=True), sequences)


def _drawn(best: Tensor, ids: Tensor, sequences: list[Sequence]) -> Tensor:
    """The chosen ids [B] from ranked scores and ids [B, n]."""
    if not bool(best[:, 0].isfinite().all()):  # what is not a number sorts before all numbers, so one look finds it
        raise FloatingPointError("the model's output is not a number")
    draws = [(sequence.request.sampling, sequence.num_generated) for sequence in sequences]
    places = choose(best.double(), Knobs.of(draws, best.device))
    return ids.gather(1, places)[:, 0]


def choose(best: Tensor, knobs: Knobs) -> Tensor:
    """Which place [B, 1] of each row of ranked scores [B, n] the draw falls on."""
    places = torch.arange(best.shape[1], device=best.device)
    limit = torch.where(knobs.top_k > 0, knobs.top_k, float(best.shape[1]))
    scaled = ((best - best[:, :1]) / knobs.temperature).masked_fill(places >= limit, -torch.inf)  # the first is 0
    shares = scaled.softmax(dim=1)
    before = shares.cumsum(dim=1) - shares
    kept = ((before < knobs.top_p) & (shares >= knobs.min_p * shares[:, :1])) | (places == 0)
    reached = shares.masked_fill(~kept, 0.0).cumsum(dim=1)
    place = (reached <= knobs.draw * reached[:, -1:]).sum(dim=1, keepdim=True)
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
