"""The child's side of a measurement: ``python -m benchmarks.worker '{"function": ..., "arguments": ...}'``.

Its standard output is one line of JSON. Whatever a peer prints goes to standard error, whose last line says what went
wrong if something did.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import traceback
import warnings


def pin(cores: int) -> None:
    """Let this process run on so many processors only: the last ones, since interrupts tend to go to the first."""
    os.sched_setaffinity(0, last_cores(cores))


def last_cores(cores: int) -> set[int]:
    """Return that many processors of those that this process may use, and at least one."""
    return set(sorted(os.sched_getaffinity(0))[-cores:])


def end_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends: it is in a session of its own."""
    with contextlib.suppress(OSError, AttributeError):  # Linux; elsewhere the bound of the measurement is all there is
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Measure what the only argument says."""
    end_with_parent()
    plan = json.loads(sys.argv[1])
    answer = os.dup(1)
    os.dup2(2, 1)
    if plan["cores"] is not None:
        pin(plan["cores"])
    logging.getLogger().setLevel(logging.CRITICAL)  # as where only trouble is logged, and alike for all
    warnings.simplefilter("ignore")
    module, _, function = plan["function"].partition(":")
    try:
        figures = getattr(importlib.import_module(module), function)(**plan["arguments"])
    except Exception as error:
        traceback.print_exc()
        print(innermost(error), file=sys.stderr)
        sys.exit(1)
    os.write(answer, json.dumps(figures).encode())


def innermost(error: BaseException) -> str:
    """Return in one line what went wrong: of groups, the first error within."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".partition("\n")[0]


if __name__ == "__main__":
    main()
