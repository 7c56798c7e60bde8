"""What a fresh interpreter is given to do, so that it can be told how long it takes."""

from __future__ import annotations

#: Write to standard output how many modules of the driver and of the SDK have been imported.
TELL = (
    "import os, sys\n"
    "foreign = [name for name in sys.modules if f'{name}.'.startswith(('psycopg.', 'opentelemetry.sdk.'))]\n"
    "os.write(1, f' {len(foreign)}\\n'.encode())\n"
)


def timed(statement: str) -> str:
    """Return a program that writes how many seconds a statement took, and then what `TELL` tells."""
    return (
        f"from time import perf_counter\nbegan = perf_counter()\n{statement}\n"
        f"seconds = perf_counter() - began\nimport os\nos.write(1, str(seconds).encode())\n{TELL}"
    )
