# Asks three questions at once. Start a server (`make run`), install index-grpc-client, and run:
#
#     python examples/python/chat_async.py
import asyncio
import os

from index_grpc_client import AsyncClient

ADDRESS = os.environ.get("INDEX_GRPC_ADDRESS", "127.0.0.1:50051")


async def answer(client: AsyncClient, prompt: str) -> str:
    """Returns the whole answer. If the loop is left early, in any way, the server stops generating."""
    text = ""
    async for chunk in client.chat_stream(prompt, max_tokens=200):
        text += chunk.delta
    return text


async def main() -> None:
    prompts = ["Where is Shanghai?", "Who are you?", "讲个故事"]
    async with AsyncClient(ADDRESS) as client:
        for prompt, text in zip(prompts, await asyncio.gather(*(answer(client, p) for p in prompts)), strict=True):
            print(f"{prompt}  {text}")


asyncio.run(main())
