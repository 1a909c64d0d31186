# Asks two questions in one conversation. Start a server (`make run`), install index-grpc-client, and run:
#
#     python examples/python/chat.py
import os

from index_grpc_client import Client, IndexGrpcError

ADDRESS = os.environ.get("INDEX_GRPC_ADDRESS", "127.0.0.1:50051")

with Client(ADDRESS) as client:
    try:
        first = client.chat("My favourite colour is blue.")
        print(first.text)
        with client.chat_stream("What is my favourite colour?", history=first.history, temperature=0) as stream:
            for chunk in stream:
                print(chunk.delta, end="", flush=True)
        print(f"\n{stream.result().usage.total_tokens} tokens")
    except IndexGrpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}") from error
