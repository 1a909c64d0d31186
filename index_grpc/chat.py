"""Answers conversations with text: prompt layout → engine → detokenizer → stop strings."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

from index_grpc.datatypes import (
    ChatRequest,
    Chunk,
    Finish,
    FinishReason,
    Message,
    Start,
    TokenLogprob,
    TokenOutput,
    TokenRequest,
    Usage,
)
from index_grpc.engine.engine import Engine
from index_grpc.engine.token_stream import TokenStream
from index_grpc.errors import PromptTooLong
from index_grpc.text.detokenizer import Detokenizer
from index_grpc.text.layout import STOP_IDS, fewest_tokens, prompt_ids
from index_grpc.text.stops import StopMatcher
from index_grpc.text.tokenizer import Tokenizer

INLINE_CHARACTERS = 2_000
"""Prompts of up to this size are laid out on the event loop, since handing them to a thread would cost more."""
MESSAGE_CHARACTERS = 20
"""As how many characters each message counts besides its own: even an empty one takes time to lay out."""

WHOLE_INTERVAL = 64
"""How many tokens of an answer that is wanted whole are handled together. More would delay the text of other calls."""


class Chat:
    """Answers ChatRequests with text. There is one for each engine, used on the engine's event loop."""

    def __init__(self, tokenizer: Tokenizer, engine: Engine, stream_interval: int = 1) -> None:
        """`stream_interval` is how many tokens each chunk after the first waits for."""
        self.tokenizer, self.engine, self._stream_interval = tokenizer, engine, stream_interval
        self.context_length = engine.limits.context_length
        self.num_laid_out = 0
        """Number of conversations that are being turned into token ids."""

    async def answer(
        self, request: ChatRequest, note: Callable[[Chunk], None] = lambda chunk: None, *, whole: bool = False
    ) -> "AnswerStream":
        """Begins to answer. `note` is called with each chunk before it is returned; `whole`: the caller wants no parts.

        Raises PromptTooLong, or the error with which the engine refuses the request.
        """
        self.engine.require_place(request.deadline)
        ids = await self.prompt_ids(request.messages)
        if len(ids) >= self.context_length:
            raise PromptTooLong(len(ids), self.context_length)
        outputs = self.engine.submit(_token_request(request, ids), self._interval(request, whole))
        return AnswerStream(AnswerDecoder(request, len(ids), self.tokenizer), outputs, note)

    async def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the messages as token ids. Raises PromptTooLong early if they are far too long for the context."""
        num_characters = sum(len(message.content) + MESSAGE_CHARACTERS for message in messages)
        if num_characters <= INLINE_CHARACTERS:
            return self._lay_out(messages)
        self.num_laid_out += 1
        try:
            return await asyncio.to_thread(self._lay_out, messages)
        finally:
            self.num_laid_out -= 1

    def _interval(self, request: ChatRequest, whole: bool) -> int:
        """Returns how many tokens are handled together: 1 with stop strings, since tokens after one would be wasted."""
        if request.stop:
            return 1
        return WHOLE_INTERVAL if whole else self._stream_interval

    def _lay_out(self, messages: Sequence[Message]) -> list[int]:
        at_least = fewest_tokens(self.tokenizer, messages)
        if at_least >= self.context_length:
            raise PromptTooLong(at_least, self.context_length, at_least=True)
        return prompt_ids(self.tokenizer, messages)


class AnswerStream:
    """Yields an answer's chunks as they come, none of them empty: the first has `start`, the last has `finish`.

    Use it in a `with` block: when the block ends, the engine stops computing the answer.
    """

    def __init__(self, decoder: "AnswerDecoder", outputs: TokenStream, note: Callable[[Chunk], None]) -> None:
        self._decoder, self._outputs, self._note = decoder, outputs, note
        self._finish: Finish | None = None

    @property
    def usage(self) -> Usage:
        """What the answer has cost so far: up to its end, or up to where it was broken off."""
        finish, outputs = self._finish, self._outputs
        if finish is not None:  # more may have been generated than belong to the answer, which a stop string ended
            return Usage(finish.prompt_tokens, finish.completion_tokens, finish.cached_prompt_tokens, finish.timing)
        return Usage(len(outputs.request.prompt_ids), outputs.num_tokens, outputs.num_cached, outputs.timing)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while self._finish is None:
            chunk = self._decoder.add(await anext(self._outputs))
            self._finish = chunk.finish
            if chunk:
                self._note(chunk)
                return chunk
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._outputs.close()


class AnswerDecoder:
    """Turns an answer's tokens into text one by one, so the text does not depend on how the tokens are grouped."""

    def __init__(self, request: ChatRequest, num_prompt: int, tokenizer: Tokenizer) -> None:
        self._request, self._num_prompt, self._tokenizer = request, num_prompt, tokenizer
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopMatcher(request.stop)
        self._num_tokens = 0

    def add(self, output: TokenOutput) -> Chunk:
        """Returns what these tokens add to the answer, if anything. Must not be called after a chunk with `finish`."""
        start = None if self._num_tokens else Start(self._request.sampling.seed, self._num_prompt)
        delta, logprobs, stop = "", [], None
        for token in output.tokens:
            self._num_tokens += 1
            if token.logprob is not None:
                top = tuple(self._logprob(other.token_id, other.logprob) for other in token.top)
                logprobs.append(self._logprob(token.id, token.logprob, top))
            text, stop = self._stops.push(self._detokenizer.push(token.id))
            delta += text
            if stop is not None:
                break
        reason = output.reason if stop is None else FinishReason.STOP_SEQUENCE
        if reason is None:
            return Chunk(delta, start, None, tuple(logprobs))
        delta += self._stops.flush()
        return Chunk(delta, start, self._finish(reason, stop, output), tuple(logprobs))

    def _finish(self, reason: FinishReason, stop: str | None, output: TokenOutput) -> Finish:
        return Finish(
            reason=reason,
            stop_sequence=stop or "",
            prompt_tokens=self._num_prompt,
            completion_tokens=self._num_tokens,
            cached_prompt_tokens=output.cached_prompt_tokens,
            timing=output.timing,
        )

    def _logprob(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(token_id, self._tokenizer.token_bytes(token_id), logprob, top)


def _token_request(request: ChatRequest, ids: list[int]) -> TokenRequest:
    return TokenRequest(
        id=request.id,
        prompt_ids=ids,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        stop_ids=STOP_IDS,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        arrival=request.arrival,
        deadline=request.deadline,
    )
