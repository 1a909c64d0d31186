"""Token ids in, token ids out: continuous batching over one model."""
