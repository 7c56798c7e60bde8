"""The keeper of a throw-away PostgreSQL: a program that owns a server and its directory, and outlives its caller.

It takes commands as lines of JSON on stdin, one at a time, replies to each on stdout, and clears away when stdin ends.
`_local_postgres` starts it, says what for, and draws who dies with whom.

Root's server runs as another user, whom nothing obliges to be ours alone: other programs run as ``nobody`` too. So what
root writes or opens lies where that user can make, move and replace nothing::

    tickrunner-postgres-...   of the keeper, entered by the server's group
        log, password, copy   of the keeper; what is in the second is read by the server's user
        data, socket          of the server's user alone

A leaf: it imports the standard library only, because it starts as a bare script, and must start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

StopMode: TypeAlias = Literal["fast", "immediate", "kill"]

REMEDY = "install the binaries with `pip install 'tickrunner-trio[demo]'`, or PostgreSQL with your system's packages"

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0  # for each of the (at most three) ways to stop; the postmaster kills slow backends itself after 5
_PORT_ATTEMPTS = 10
_SOCKET_PATH_BYTES = 103  # macOS; Linux allows four more
_UNFIT = frozenset(',"$`\\')  # a comma separates hosts for libpq; initdb puts paths in double quotes for a shell


class LocalPostgresError(RuntimeError):
    """The throw-away server cannot be had, or did not do what it was told. The message says why, and the remedy."""


def _pid_file(directory: Path) -> list[str]:
    """The lines of the running postmaster's file: [0] its pid, [6] its shared memory, [7] its status. Or none."""
    try:
        return (directory / "data" / "postmaster.pid").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _forget_killed(directory: Path) -> None:
    """Free what a killed postmaster left in the kernel: a System V segment, which goes with no directory.

    The server's user may write anything into the file, and we may be root: so it has to be a segment of that user.
    """
    lines = _pid_file(directory)
    with contextlib.suppress(IndexError, ValueError):  # there is none, or no number
        segment = ctypes.c_int(int(lines[6].split()[1])).value  # as the kernel reads it, however it is written
        if _owner_of(segment) in (None, (directory / "data").stat().st_uid):
            ctypes.CDLL(None).shmctl(segment, 0, None)  # 0 is IPC_RMID
    (directory / "data" / "postmaster.pid").unlink(missing_ok=True)


def _owner_of(segment: int) -> int | None:
    """The user of a System V segment; None if there is none, or where the system does not tell, as Linux does."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            _, number, _, _, _, _, _, user, *_ = row.split()
            if int(number) == segment:  # pragma: no branch - how many there are is up to the machine
                return int(user)
    return None  # pragma: no cover - it has gone by itself, or this is not Linux


def clear_away(directory: Path) -> None:
    """Wait for a server whose keeper was killed, and remove the directory. Bounded; what it cannot remove stays."""
    deadline = time.monotonic() + _STOP_SECONDS
    # Gone; or its number is somebody else's by now; or, of a file that its user has written, none.
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError, OverflowError):
        while (lines := _pid_file(directory)) and time.monotonic() < deadline:
            pid = int(lines[0])
            if pid <= 1:  # pragma: no cover - no server's: many processes, or the one that all depend on
                break
            # On Linux the kernel sent it the signal, and we only look.
            os.kill(pid, 0 if sys.platform == "linux" else signal.SIGQUIT)
            time.sleep(0.02)
    _forget_killed(directory)
    deadline = time.monotonic() + _STOP_SECONDS  # its files may come and go until it has ended
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.001)


class _Keeper:
    """Owns the directory and the server. Sequential: one command at a time, each bounded."""

    def __init__(self, bin_dir: str, settings: list[str], temporary: str) -> None:
        self._bin_dir = Path(bin_dir)
        self._settings = settings
        self._password = secrets.token_hex(16)
        self._port: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._owner = _server_owner()
        self._prepare = _die_with(os.getpid())
        self.directory = Path()
        self._make_directory(temporary)

    def start(self) -> dict[str, Any]:
        if self._server is None or self._server.poll() is not None:
            self.stop("kill")  # a postmaster killed from outside may have left backends: they would bar a new one
            if not (self.directory / "data").exists():
                self._initialise()
            for attempt in range(_PORT_ATTEMPTS):  # pragma: no branch - the last attempt returns or raises
                port = self._port or _free_port()
                is_last = attempt == _PORT_ATTEMPTS - 1 or self._port is not None
                if self._launched(port, last=is_last):  # pragma: no branch - see the end of `_launched`
                    self._port = port
                    break
        assert self._server is not None
        return {"pid": self._server.pid, "port": self._port, "password": self._password}

    def stop(self, mode: str) -> dict[str, Any]:
        if self._server is None:
            return {}
        signals = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
        for step in get_args(StopMode)[get_args(StopMode).index(mode) :]:  # pragma: no branch - SIGKILL ends it
            self._server.send_signal(signals[step])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(_STOP_SECONDS)
                break
        _kill_children()  # the orphans of a killed postmaster; another one ends after its children
        assert self._server.stdout is not None
        with self._server.stdout as held:
            select.select([held], [], [], _STOP_SECONDS)
        self._server = None
        _forget_killed(self.directory)
        return {}

    def _make_directory(self, temporary: str) -> None:
        """Make it where its owner gets in, a unix socket will do for libpq, and so will the shell that initdb calls."""
        for parent in dict.fromkeys((temporary, "/tmp", "/var/tmp")):  # noqa: S108  # mkdtemp makes it unguessable
            with contextlib.suppress(OSError):
                self.directory = path = Path(tempfile.mkdtemp(prefix="tickrunner-postgres-", dir=parent))
                longest = path / "socket" / ".s.PGSQL.65535"
                fits = len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES and not _UNFIT & set(str(path))
                if fits and (self._owner is None or self._is_entered(path)):
                    self._give("socket")
                    return
                shutil.rmtree(path)
        raise LocalPostgresError(  # pragma: no cover - a machine without /tmp
            f"neither {temporary!r} nor /tmp nor /var/tmp can hold the server's directory: set TMPDIR to a directory "
            f"with a short path without any of {' '.join(sorted(_UNFIT))}, which 'nobody' can enter if you are root"
        )

    def _is_entered(self, path: Path) -> bool:
        """Whether the server's user, whom it now lets in, can get at it through those above."""
        assert self._owner is not None
        try:
            os.chown(path, -1, self._owner[1])
            path.chmod(0o710)
            return self._status_of(["test", "-x", str(path)]) == 0
        except (OSError, subprocess.SubprocessError):  # pragma: no cover - a file system that knows no owners
            return False

    def _give(self, name: str) -> None:
        """Make a directory that is the server's user's alone."""
        (self.directory / name).mkdir()
        if self._owner is not None:  # pragma: no branch - see `_server_owner`
            os.chown(self.directory / name, *self._owner)

    def _initialise(self) -> None:
        if self._owner is not None and not self._runs():
            self._bin_dir = self._copied()
            if not self._runs():  # pragma: no cover - programs of another machine
                raise LocalPostgresError(f"the user 'nobody' cannot run {str(self._bin_dir)!r}, nor a copy: {REMEDY}")
        password_file = self.directory / "password"
        password_file.write_text(self._password)
        if self._owner is not None:  # pragma: no branch - see `_server_owner`
            os.chown(password_file, *self._owner)
        self._give("data")
        command = [str(self._bin_dir / "initdb"), "--no-sync", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}", f"--pgdata={self.directory / 'data'}"]
        # Without TZ it compares all time zones with the machine's.
        status = self._status_of(command, environment=os.environ | {"TZ": "UTC"})
        password_file.unlink()
        if status != 0:
            shutil.rmtree(self.directory / "data", ignore_errors=True)
            raise self._failure(f"initdb of {str(self._bin_dir)!r} failed with exit status {status}")

    def _runs(self) -> bool:
        # initdb, because it needs the shared libraries of the wheel, which postgres does not.
        try:
            return self._status_of([str(self._bin_dir / "initdb"), "--version"]) == 0
        except OSError:
            return False

    def _copied(self) -> Path:
        """A copy for the server's user, who cannot get through a home directory to root's virtual environment.

        A hard link would do for the way, but not for files that pip wrote under the umask 077.
        """
        prefix = self._bin_dir.parent
        package = prefix.parent
        # A wheel's programs look for shared libraries in "<package>.libs" beside the package: keep what is beside what.
        copy = self.directory / "copy"
        target = copy / package.name / prefix.name
        for part in ("lib", "share"):
            shutil.copytree(prefix / part, target / part)
        (target / "bin").mkdir()
        for program in ("postgres", "initdb"):
            shutil.copy(self._bin_dir / program, target / "bin")
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():  # pragma: no branch - not every wheel has such
            shutil.copytree(libraries, copy / libraries.name)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        return target / "bin"

    def _launched(self, port: int, *, last: bool) -> bool:
        """Start the server and wait until it is ready. False: somebody took the port, and this was not the last try."""
        command = [str(self._bin_dir / "postgres"), "-D", str(self.directory / "data")]
        places = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.directory / 'socket'}"]
        for setting in (*self._settings, *places):
            command += ["-c", setting]
        # Nobody writes to its stdout, but every backend holds it: its end tells that the last one is gone.
        server = self._spawned(command, stdout=subprocess.PIPE)
        self._server = server
        deadline = time.monotonic() + _START_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            lines = _pid_file(self.directory)
            if lines[:1] == [str(server.pid)] and [line.strip() for line in lines[7:]] == ["ready"]:
                return True
            time.sleep(0.005)
        status = server.poll()
        self.stop("kill")
        # What comes then is tested in a process of which no coverage is known.
        if not last and b"could not bind" in (self.directory / "log").read_bytes():  # pragma: no cover - as above
            return False
        reason = f"not ready after {_START_SECONDS:.0f} s" if status is None else f"exit status {status}"
        raise self._failure(f"PostgreSQL did not start: {reason}")

    def _spawned(
        self, command: list[str], *, stdout: int | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL as the server's user, with its complaints in the log, until the keeper ends."""
        user, group = self._owner or (None, None)
        with (self.directory / "log").open("wb") as stderr:
            return subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=stderr if stdout is None else stdout,
                stderr=stderr,
                env=environment,
                preexec_fn=self._prepare,  # noqa: PLW1509 - the keeper has no threads
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )

    def _status_of(self, command: list[str], *, environment: dict[str, str] | None = None) -> int:
        with self._spawned(command, environment=environment) as program:
            try:
                return program.wait(_START_SECONDS)
            finally:
                program.kill()

    def _failure(self, what: str) -> LocalPostgresError:
        tail = (self.directory / "log").read_text(errors="replace").splitlines()[-20:]
        return LocalPostgresError("\n  ".join([f"{what}. The last lines of its log:", *tail]))


def _server_owner() -> tuple[int, int] | None:
    """The user and group to run the server as: PostgreSQL refuses root. None: ours will do."""
    if os.geteuid() != 0:  # pragma: no cover - tested as a user who cannot write what was covered
        return None
    import pwd  # noqa: PLC0415  # not on Windows, where the module must still import

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:  # pragma: no cover - a machine without that user
        raise LocalPostgresError("PostgreSQL refuses to run as root, and there is no user 'nobody': add one") from None
    return nobody.pw_uid, nobody.pw_gid


def _die_with(keeper: int) -> Callable[[], None] | None:
    """For the child before its exec, after its change of user, which would reset it: die when the keeper does."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: the child of a fork does as little as it can
    quit_signal = int(signal.SIGQUIT)

    def prepare() -> None:  # pragma: no cover - in the child of a fork, which becomes another program
        prctl(1, quit_signal, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:
            os._exit(1)

    return prepare


def _free_port() -> int:
    """A port below those that the kernel gives to clients.

    One of theirs could be lost to any client while the server is stopped; and a client that calls a stopped server on
    it may be given that very port for its own end, and so talk to itself.
    """
    while True:
        port = random.randint(10_240, 32_767)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _kill_children() -> None:
    """Kill what a killed postmaster left to its reaper, us. Elsewhere than on Linux, backends notice and end alone."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        while pids := [int(pid) for pid in children.read_text().split()]:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)


def _keep(plan: dict[str, Any]) -> None:
    """The keeper's life: serve commands until the lifeline ends or SIGTERM comes, then clear away."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        keeper = _Keeper(**plan)
    except (LocalPostgresError, OSError) as error:  # pragma: no cover - a machine without /tmp
        return _say({"error": str(error)})
    try:
        signal.signal(signal.SIGTERM, _exit)
        _say({"directory": str(keeper.directory)})
        for command, *arguments in _commands(sys.stdin.buffer):
            try:
                reply = keeper.start() if command == "start" else keeper.stop(*arguments)
            except (LocalPostgresError, OSError, subprocess.SubprocessError) as error:
                reply = {"error": str(error)}
            _say(reply)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.stop("immediate")
        clear_away(keeper.directory)


def _commands(lifeline: IO[bytes]) -> Iterator[list[str]]:
    """The caller's commands until the lifeline ends. The caller waits for each reply, so a line comes alone.

    A plain read would sleep on if the signal came between the interpreter's last look at signals and the system call;
    a byte that the signal writes to a pipe of our own wakes the select whenever it comes.
    """
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    while True:
        select.select([lifeline.fileno(), woken], [], [])
        if not (line := lifeline.readline()):
            return
        yield json.loads(line)


def _exit(_signal: int, _frame: object) -> NoReturn:
    sys.exit()


def _say(reply: dict[str, Any]) -> None:
    # Not print: what a caller that is gone did not read would be written once more, and fail, at the keeper's exit.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    _keep(json.loads(sys.argv[1]))
