"""Who may come in: certificates, keys and their limits. Knows nothing of gRPC."""
