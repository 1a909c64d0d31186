"""From a checkpoint to logits and drawn tokens; knows slots, but no requests."""
