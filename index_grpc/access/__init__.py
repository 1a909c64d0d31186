"""Access control: certificates, API keys and their limits. It does not use gRPC."""
