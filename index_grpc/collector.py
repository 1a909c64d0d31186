"""Python's collector of cyclic garbage in a process that serves."""

import gc

YOUNG_OBJECTS = 10_000
"""How many more objects there must be before the collector looks again: a step of many answers makes thousands that are
gone by the next."""


def spare_what_exists() -> None:
    """Collects once, then has the collector skip all that is left, for good.

    A full collection walks every module and whatever was loaded: with PyTorch a quarter of a second, in which neither
    the event loop nor the engine's loop goes on. What calls leave behind is collected as ever.

    For the owner of a process; what it holds now is taken to live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
