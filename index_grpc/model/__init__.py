"""The model: loads checkpoints, computes logits and draws tokens. Knows slots, but not requests."""
