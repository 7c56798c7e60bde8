"""Hundreds of bad clients in a process of their own: idle, slow, and never done. It ends when its standard input does.

Run as ``python bad_clients.py PORT COUNT``; says "here" once all have tried to connect.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time

HEAD = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n"

#: What they begin with, in turns: nothing, a part of a line, all but the end, and requests after which they stay.
KINDS = (b"", b"GET /", HEAD, HEAD + b"\r\n", b"GET /api/services HTTP/1.1\r\nHost: localhost\r\n\r\n")


def connected(port: int, sent: bytes) -> socket.socket:
    """A client that has tried to connect; if it could not, it fails at its next word."""
    client = socket.socket()
    client.settimeout(1)
    with contextlib.suppress(OSError):
        client.connect(("127.0.0.1", port))
        client.sendall(sent)
    client.settimeout(0)
    return client


def main(port: int, count: int) -> None:
    clients = [connected(port, KINDS[number % len(KINDS)]) for number in range(count)]
    print("here", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for number, client in enumerate(clients):
            try:
                client.send(b"X")
            except OSError:  # dropped: it comes again
                client.close()
                clients[number] = connected(port, KINDS[number % len(KINDS)])
        time.sleep(0.5)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
