"""What Prometheus reads of a server. docs/metrics.md explains each name; a test holds the two together."""
