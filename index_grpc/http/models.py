"""`GET /v1/models`: the served model, in OpenAI's form."""

import time

from index_grpc.errors import ModelNotFound
from index_grpc.http.endpoint import Exchange
from index_grpc.server.answering import Answering
from index_grpc.server.status import quoted


class Models:
    """Describes the served model."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._created = answering, int(time.time())

    async def list(self, exchange: Exchange) -> None:
        """Sends the list of models, which holds one."""
        await exchange.writer.send_json({"object": "list", "data": [self._described()]})

    async def one(self, exchange: Exchange) -> None:
        """Sends the model of the name in the path. Raises ModelNotFound if that is not the served one."""
        described, name = self._described(), exchange.scope["path_params"]["name"]
        if name != described["id"]:
            served = str(described["id"])
            raise ModelNotFound(f"model is {quoted(name)}; served is {served!r}", served_model=served)
        await exchange.writer.send_json(described)

    def _described(self) -> dict[str, object]:
        model = self._answering.ready().model
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "index-grpc",
            "max_model_len": model.context_length,
        }
