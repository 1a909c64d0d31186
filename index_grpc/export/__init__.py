"""Exports checkpoints for other engines: the same model as a plain Llama or as GGUF."""
