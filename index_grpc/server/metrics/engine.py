"""Metrics of the engine: its steps, preemptions, answers cut short and losses."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from index_grpc.engine.orders import StepReport

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Seconds."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sequences."""


class EngineMetrics:
    """Counts the engine's steps and their results."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"index_grpc_{name}", text, registry=registry, buckets=buckets)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"index_grpc_{name}", text, registry=registry)

        self.queue = histogram("queue_seconds", "From a call's arrival until computing began.", QUEUE_BUCKETS)
        self._step = histogram("step_seconds", "Duration of the engine's steps.", STEP_BUCKETS)
        self._batch = histogram("batch_sequences", "Sequences that a step computed something for.", BATCH_BUCKETS)
        self._computed = counter("computed_prompt_tokens", "Prompt tokens that the engine has computed.")
        self._generated = counter("generated_tokens", "Tokens that the engine has generated, wanted to the end or not.")
        self._preemptions = counter("preemptions", "Times that a request had to pause, since memory was used up.")
        self.cut_short = counter("cut_short_answers", "Answers cut short before the engine was done with them.")
        self.saved_tokens = counter("saved_tokens", "Tokens at most that cutting answers short saved.")
        self.losses = counter("engine_losses", "Times that the engine broke or was given up.")

    def count(self, step: StepReport) -> None:
        """Counts a step that the engine has computed."""
        self._step.observe(step.seconds)
        self._batch.observe(step.batch_size)
        self._computed.inc(step.num_prompt_tokens)
        self._generated.inc(step.num_new_tokens)
        self._preemptions.inc(step.num_preemptions)
