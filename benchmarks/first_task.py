"""A bare Trio program that tells of its first task and ends, as `first_tick` does; see `questions.startup`."""

from __future__ import annotations

import os

import opentelemetry.metrics
import opentelemetry.trace  # noqa: F401 - whoever has the library has all of its API
import trio

from .imports import TELL


async def main() -> None:
    """Write how many modules are there that should not be, and end without another line of Python."""
    exec(TELL, {})
    os._exit(0)


if __name__ == "__main__":
    trio.run(main)
