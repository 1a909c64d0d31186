"""`POST /v1/chat/completions`: an answer in OpenAI's form, whole or as a stream."""

from collections.abc import AsyncIterator

from index_grpc.datatypes import Chunk
from index_grpc.http.completion import Completion
from index_grpc.http.completion_form import CompletionForm
from index_grpc.http.endpoint import Exchange
from index_grpc.http.form import naming, read
from index_grpc.server.answering import Answering


class Completions:
    """Answers with the same backend as gRPC."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def answer(self, exchange: Exchange) -> None:
        """Sends the answer, whole or as a stream, as the body asks."""
        call, backend = exchange.call, self._answering.ready(for_answer=True)
        form = read(CompletionForm, exchange.body, backend.model)
        completion = Completion(call, backend.model, tells_usage=form.stream_options.include_usage)
        whole = not form.stream
        with naming(form.name), await self._answering.answer(form.proto(), call, backend, whole=whole) as chunks:
            if whole:
                await exchange.writer.send_json(await completion.whole(chunks))
            else:
                await _stream(exchange, completion, chunks)


async def _stream(exchange: Exchange, completion: Completion, chunks: AsyncIterator[Chunk]) -> None:
    async for chunk in chunks:
        await exchange.writer.send_events(completion.events(chunk), last=chunk.finish is not None)
