"""A checkpoint's weights as those of a plain Llama, with the norm head folded into them."""

from pathlib import Path

from torch import Tensor

from index_grpc.model.checkpoint import HEAD, expected_tensors, open_checked, read, read_head
from index_grpc.model.config import ModelConfig


class PlainWeights:
    """Opens the weights and reads each on demand. Raises CheckpointError if they do not fit the config."""

    def __init__(self, source: Path, config: ModelConfig) -> None:
        self._config, self._tensors = config, open_checked(source, config)
        self.shapes = expected_tensors(config)
        """Shapes of the tensors by name."""
        if config.norm_head:  # once it is folded, the head is no longer the embedding
            self.shapes |= {HEAD: (config.vocab_size, config.hidden_size)}

    def read(self, name: str) -> Tensor:
        """Returns a tensor in the checkpoint's number format."""
        return read_head(self._tensors, self._config) if name == HEAD else read(self._tensors[name])
