"""A peer: the server of the usual tutorials, one FastAPI handler around a transformers pipeline.

It answers one request at a time, without streaming; others wait in its queue. So the first token comes with the last.

    python -m peers.tutorial CHECKPOINT/llama --threads 2
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

from peers.pipeline import text_generator
from peers.protocol import (
    REPETITION_PENALTY,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    Answer,
    Options,
    Work,
    serve,
)

ANSWER_SECONDS = 3600.0
"""How long a request may wait for its turn and its answer."""

DEFAULTS = {"top_k": TOP_K, "top_p": TOP_P, "temperature": TEMPERATURE, "repetition_penalty": REPETITION_PENALTY}


def tutorial_app(checkpoint: str) -> FastAPI:
    """The tutorial's server, as its reader would copy it."""
    app = FastAPI()
    generator = text_generator(checkpoint)

    async def create_item(request: Request) -> dict[str, Any]:
        body = await request.json()
        history = body.get("history") or []
        turns = [(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
        sampling = {name: body.get(name, default) for name, default in DEFAULTS.items()}
        greedy = sampling["temperature"] == 0
        output = generator(
            [{"role": role, "content": text} for role, text in [*turns, ("user", body["prompt"])]],
            max_new_tokens=body.get("max_length", 512),
            do_sample=not greedy,
            **({} if greedy else sampling),
        )
        response = output[0]["generated_text"][-1]["content"]
        return {
            "response": response,
            "history": [*history, [body["prompt"], response]],
            "status": 200,
            "time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        }

    app.add_api_route("/", create_item, methods=["POST"])
    return app


class Tutorial:
    """Posts to the tutorial's server, which runs in a thread of this process."""

    def __init__(self, port: int) -> None:
        self._port = port

    def prepare(self, work: Work) -> None:
        """Needs nothing."""

    def answer(self, work: Work) -> list[Answer]:
        """Posts all prompts at once."""
        with ThreadPoolExecutor(len(work.texts)) as threads:
            return list(threads.map(lambda text: self._post(text, work), work.texts))

    def _post(self, text: str, work: Work) -> Answer:
        sampling = DEFAULTS if work.sampled else {"temperature": 0}
        body = json.dumps({"prompt": text, "history": [], "max_length": work.max_tokens} | sampling)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        instant = time.perf_counter()
        connection.close()
        if response.status != http.client.OK:
            raise RuntimeError(f"the tutorial's server answered {response.status}: {content[:200]!r}")
        # The response does not say how many tokens it has; only the limit can have ended it.
        return Answer([instant], work.max_tokens, text=json.loads(content)["response"])


@contextmanager
def open_engine(options: Options) -> Iterator[Tutorial]:
    torch.set_num_threads(options.threads)
    app = tutorial_app(str(options.checkpoint))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Tutorial(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(10.0)


if __name__ == "__main__":
    serve("tutorial", ["torch", "transformers", "fastapi", "uvicorn"], open_engine)
