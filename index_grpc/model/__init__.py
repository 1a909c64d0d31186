"""From a checkpoint to a torch module; knows nothing of requests."""
