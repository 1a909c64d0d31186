"""Settings of Python's garbage collector for a process that serves."""

import gc

YOUNG_OBJECTS = 10_000
"""How many new objects start a collection. A step of many answers makes thousands that are gone by the next step."""


def freeze_heap() -> None:
    """Collects once, then exempts all remaining objects from collection for ever.

    A full collection visits every module and everything that was loaded: with PyTorch that takes a quarter of a second,
    in which neither the event loop nor the engine's loop runs. Garbage that calls make later is collected as before.

    Only for the owner of a process: every object that exists now is assumed to live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
