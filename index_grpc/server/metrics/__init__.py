"""The metrics that Prometheus reads. docs/metrics.md explains each name; a test compares the two."""
