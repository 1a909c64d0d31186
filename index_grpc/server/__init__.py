"""The gRPC face of the service; knows nothing of tensors."""
