"""How the session's thread sleeps: until its socket is ready, its time is over, or somebody wakes it."""

from __future__ import annotations

import selectors
import socket

# Neither keeps state in the kernel, where a socket that libpq closes would stay behind. Windows has no poll.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Sleeper:
    """One thread sleeps, and any thread may `wake` it; what came before it sleeps wakes it as well."""

    def __init__(self) -> None:
        self._selector = _Selector()
        self._watched: tuple[int, int] | None = None  # a socket, and the events
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)  # noqa: FBT003  # positional-only
        self._selector.register(self._woken, selectors.EVENT_READ)

    def sleep(self, fd: int | None, events: int, seconds: float) -> bool:
        """Sleep until the socket is ready, which is what it returns, or the time is over, or somebody wakes it."""
        watched = None if fd is None else (fd, events)
        if watched != self._watched:
            self._watch(watched)
        is_ready = False
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._woken:
                try:  # noqa: SIM105 - as below
                    self._woken.recv(4096)
                except BlockingIOError:  # pragma: no cover - select has just said otherwise
                    pass
            else:
                is_ready = True
        return is_ready

    def forget(self) -> None:
        """Look at no socket any more. To be called before it is closed."""
        self._watch(None)

    def wake(self) -> None:
        """Wake the one who sleeps, or is about to. From any thread; it does not block, and raises nothing."""
        # A full socket wakes as well, and a closed one means that the thread has answered everything and ended.
        try:  # noqa: SIM105 - `contextlib.suppress` takes as long as the rest of a wake-up but for the system call
            self._waker.send(b"\0")
        except OSError:
            pass

    def close(self) -> None:
        """Close the files. Nobody sleeps any more."""
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _watch(self, watched: tuple[int, int] | None) -> None:
        if self._watched is not None:
            self._selector.unregister(self._watched[0])
        self._watched = None
        if watched is not None:
            self._selector.register(*watched)
            self._watched = watched
