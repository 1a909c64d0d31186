"""The second way in: the tutorial's form and OpenAI's over HTTP, with the same calls, engine and limits as gRPC."""
