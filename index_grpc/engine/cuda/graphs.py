"""CUDA graphs: work of fixed shape, recorded once, then started as a whole."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

Work = Callable[[], Tensor]


class Graphs:
    """Work by name. On CUDA it is captured in graphs, which share their memory, so only one may run at a time.

    A result is valid until other work is started.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._works: dict[Hashable, Work] = {}
        self._pool: Any = None

    def add(self, name: Hashable, work: Work) -> None:
        """Records work after running it once, as kernels are compiled at their first run."""
        if not self._is_cuda:
            self._works[name] = work
            return
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = work()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        self._works[name] = replay

    def run(self, name: Hashable) -> Tensor:
        """Starts work and returns the tensor that will hold its result."""
        return self._works[name]()
