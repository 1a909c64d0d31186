"""One run: it connects, fits the prompts and measures level after level."""

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

from index_grpc_client import AsyncClient, ModelInfo, tls_credentials
from index_grpc_client.channel import allowed_address
from index_grpc_client.limits import allowed_header

from index_grpc.bench.drive import Driver, closed_loop, conversations, open_loop
from index_grpc.bench.plan import Mode, Plan
from index_grpc.bench.progress import Progress
from index_grpc.bench.record import Measurement
from index_grpc.bench.workload import Workload, fit_words, poisson_arrivals
from index_grpc.errors import StartupError
from index_grpc.machine import batch_threads

NO_RETRIES = {"grpc.enable_retries": 0}
"""Channel arguments. A client that retries would hide refusals, which are to be counted here."""


@dataclass(frozen=True)
class Target:
    """The server to measure, and how to connect to it."""

    address: str
    timeout: float = 600.0
    """Seconds for an answer."""
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    """The host name in the server's certificate, where the address is another."""
    api_key: str | None = None

    def client(self) -> AsyncClient:
        """Returns a client that never retries. The caller closes it. Raises StartupError for a value it refuses."""
        self._check()
        encrypts = self.tls or self.ca or self.cert
        credentials = tls_credentials(self.ca, cert=self.cert, key=self.key) if encrypts else None
        name = {"grpc.ssl_target_name_override": self.server_name} if self.server_name else {}
        return AsyncClient(
            self.address,
            timeout=self.timeout,
            credentials=credentials,
            api_key=self.api_key or None,
            channel_options={**NO_RETRIES, **name},
        )

    def _check(self) -> None:
        """Raises StartupError with the flag's name, which the client does not know."""
        try:
            allowed_address(self.address, "--address")
            allowed_header(self.server_name or "", "--server-name")
            allowed_header(self.api_key or "", "--api-key")
        except ValueError as error:
            raise StartupError(str(error)) from error


@dataclass
class Run:
    """Measures a plan's levels. The results stay here, however the run ends."""

    plan: Plan
    target: Target
    progress: Progress
    server: ModelInfo | None = None
    """None until it has answered."""
    num_words: int = 0
    """Words of each prompt; 0 until they are fitted."""
    measurements: list[Measurement] = field(default_factory=list)

    async def measure(self) -> None:
        """Runs to the end. Raises IndexGrpcError of the client if the server does not answer at the start."""
        with batch_threads():  # on the server's machine, to take as little of its time as possible
            client = self.target.client()
        async with client:
            self.server = await client.model()
            self._check_room(self.server.context_length)
            self.num_words = await fit_words(client, self.plan.seed, self.plan.prompt_tokens)
            for position, level in enumerate(self.plan.levels):
                await self._warm_up(client, position, level)
                await self._level(client, position, level)

    def _check_room(self, context_length: int) -> None:
        if self.plan.prompt_tokens >= context_length:
            problem = f"--prompt-tokens is {self.plan.prompt_tokens}; the model's context holds {context_length} tokens"
            raise StartupError(f"{problem}, and an answer needs some of them")

    def _driver(self, client: AsyncClient, series: str, measurement: Measurement) -> Driver:
        return Driver(client, Workload(self.plan.seed, self.num_words), self.plan, series, measurement, self._news)

    def _news(self, measurement: Measurement) -> None:
        self.progress.news(measurement)

    async def _warm_up(self, client: AsyncClient, position: int, level: float) -> None:
        if num_requests := self.plan.warmup(level):
            self.progress.begin(f"warm-up for {self.plan.label(level)}", num_requests)
            driver = self._driver(client, f"{position} warm-up", Measurement(level, time.perf_counter()))
            await closed_loop(driver, self.plan.num_workers(level), num_requests)

    async def _level(self, client: AsyncClient, position: int, level: float) -> None:
        measurement = Measurement(level, time.perf_counter())
        driver, cpu = self._driver(client, str(position), measurement), time.process_time()
        self.measurements.append(measurement)
        try:
            await self._drive(driver, position, level)
        except BaseException:
            measurement.interrupted_at = time.perf_counter()
            raise
        finally:
            measurement.cpu_s = time.process_time() - cpu

    async def _drive(self, driver: Driver, position: int, level: float) -> None:
        plan, workers, label = self.plan, self.plan.num_workers(level), self.plan.label(level)
        match plan.mode:
            case Mode.CLOSED:
                self.progress.begin(label, plan.requests(level))
                await closed_loop(driver, workers, plan.requests(level))
            case Mode.CONVERSATIONS:
                self.progress.begin(label, plan.conversations(level) * plan.num_turns)
                await conversations(driver, workers, plan.conversations(level), plan.num_turns)
            case Mode.OPEN:
                arrivals = self._arrivals(position, level)
                self.progress.begin(label, len(arrivals))
                await open_loop(driver, arrivals)

    def _arrivals(self, position: int, rate: float) -> list[float]:
        instants = poisson_arrivals(f"{self.plan.seed}/{position}", rate)
        duration = self.plan.duration_s
        if duration is None:
            return list(itertools.islice(instants, self.plan.requests(rate)))
        return list(itertools.takewhile(lambda instant: instant < duration, instants))
