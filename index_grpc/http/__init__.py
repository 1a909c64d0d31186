"""The HTTP API: the tutorial's form and OpenAI's, with the same calls, engine and limits as gRPC."""
