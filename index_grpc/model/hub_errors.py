"""The error messages for the ways in which a download can fail."""

import errno
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from index_grpc.errors import CheckpointError

OTHER_WAYS = "set HF_ENDPOINT to a mirror, or pass a directory with the files, or use the model 'demo'"

NO_SPACE = "no space is left in {place}; Index-1.9B takes 4.4 GB; make room, or set HF_HOME or the output elsewhere"
OFFLINE = "is not complete in {place}, and HF_HUB_OFFLINE forbids to fetch it; unset it, or use the model 'demo'"
SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "is gated; accept its terms at {endpoint}/{model} and set HF_TOKEN to your token"),
    (RepositoryNotFoundError, "is neither a directory nor a model at {endpoint}; check the name, or set HF_TOKEN"),
    (HFValidationError, "is neither a directory nor a name that a hub can have ({origin})"),
    (RevisionNotFoundError, "has no revision {revision!r} at {endpoint}; leave it out for the newest"),
    (HfHubHTTPError, "{endpoint} refused ({origin}); try again later, " + OTHER_WAYS),
    (PermissionError, "cannot be written to {place} ({origin}); set HF_HOME or the output elsewhere"),
    (Exception, "cannot be fetched from {endpoint} ({origin}); check the network and try again, " + OTHER_WAYS),
)
"""The message for each error, subclasses before base classes."""


def explain(error: Exception, model: str, revision: str | None, endpoint: str, output: Path | None) -> CheckpointError:
    """Returns an error that says what went wrong and what to do about it."""
    causes = list(_causes(error))
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        sentence = NO_SPACE
    elif constants.HF_HUB_OFFLINE:
        sentence = OFFLINE
    else:
        sentence = next(text for kind, text in SENTENCES for cause in causes if isinstance(cause, kind))
    place = output or Path(constants.HF_HUB_CACHE)
    origin = " ".join(str(causes[-1]).split())[:200] or type(causes[-1]).__name__
    told = sentence.format(model=model, revision=revision, endpoint=endpoint, place=place, origin=origin)
    return CheckpointError(f"{model}: {told}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error and its causes, the original one last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
