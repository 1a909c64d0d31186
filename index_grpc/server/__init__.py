"""The gRPC server. Handles no tensors."""
