"""A program that writes a mark every 10 ms and does nothing else, on one processor: ``control.py <record> <cpu>``.

Where its marks are late the machine was. It ends when its standard input does.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from faults.record import MARK_SECONDS, Recorder

SERVICE = "control"


def main() -> None:
    path, cpu = Path(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {cpu})
    recorder = Recorder(path, f"cpu{cpu}")
    kind = "start"
    while not select.select([0], [], [], MARK_SECONDS if kind == "mark" else 0)[0]:
        recorder.write(SERVICE, 1, kind)
        kind = "mark"
    recorder.write(SERVICE, 1, "end")


if __name__ == "__main__":
    main()
