"""The least and most that a key's limits may be. Here they need no pydantic, which is slow to import."""

LEAST_REQUESTS_PER_MINUTE = 0.001
MOST_REQUESTS_PER_MINUTE = 1_000_000
MOST_CONCURRENT = 100_000
