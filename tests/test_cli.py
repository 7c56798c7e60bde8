"""The command line: what it loads, how signals stop it, what it prints, and its exit statuses."""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from cli_processes import PATIENCE, PROGRAMS, run_to_end, started

import tickrunner_trio
from tickrunner_trio import Config, PostgresLocker, Service, _cli, _cli_run
from tickrunner_trio._cli import main
from tickrunner_trio._cli_check import Checked, check_services
from tickrunner_trio._cli_errors import CommandError, command_error_in, told
from tickrunner_trio._cli_logging import JsonFormatter, TextFormatter, configure_logging, end_stdout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tickrunner_trio import Tick


@pytest.fixture
def among_the_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Call `main` in this process as if in the directory of the programs, and take back what it does to the process."""
    monkeypatch.chdir(PROGRAMS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "ticking", raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    yield
    root.setLevel(level)
    sys.modules.pop("ticking", None)


def test_what_lies_in_the_current_directory_is_not_loaded_where_python_is_told_so() -> None:
    status, _, errors = run_to_end("check", "ticking:quick", PYTHONSAFEPATH="1")
    assert (status, errors.startswith("tickrunner: there is no module 'ticking'")) == (2, True)


# How run is stopped by signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_work_in_flight_finish_and_leaves_the_context_manager(number: signal.Signals) -> None:
    with started("run", "ticking:opened") as process:
        process.wait_for("begun")
        process.signal(number)
        status, output, errors = process.end()
    assert (status, errors) == (0, "")
    after = output[output.index(f"{number.name}: draining") :]
    assert "finished" in after
    assert "begun" not in after, "a tick began after the drain"
    assert after.endswith("closed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_cancels_the_work(number: signal.Signals) -> None:
    with started("run", "ticking:endless") as process:
        process.wait_for("begun")
        process.signal(signal.SIGTERM)
        process.wait_for("SIGTERM: draining")
        process.signal(number)
        status, output, errors = process.end()
    assert (status, errors) == (128 + number, "")
    assert "cancelled" in output
    assert "services drained" not in output


def test_work_that_the_drain_cuts_short_gives_exit_status_1() -> None:
    with started("run", "ticking:endless", "--drain-timeout", "0.2") as process:
        process.wait_for("begun")
        process.signal(signal.SIGTERM)
        status, output, errors = process.end()
    assert (status, errors) == (1, "")
    assert "cancelled" in output
    assert "services drained" not in output


def test_a_signal_while_the_services_are_being_opened_cancels_that() -> None:
    with started("run", "ticking:opened_for_ever") as process:
        process.wait_for("opening")
        process.signal(signal.SIGINT)
        status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert output.endswith("closed")
    assert "services started services=" not in output


@pytest.mark.usefixtures("among_the_programs")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_just_before_signals_are_obeyed_is_not_lost(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_signal_receiver = trio.open_signal_receiver
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def late(*numbers: int) -> object:
        signal.raise_signal(number)
        return open_signal_receiver(*numbers)

    monkeypatch.setattr(trio, "open_signal_receiver", late)
    assert main(["run", "ticking:opened_for_ever"]) == 0
    assert f"{number.name} before the services started: stopping" in capsys.readouterr().out
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_end_of_stdin_drains() -> None:
    with started("run", "ticking:opened") as process:
        process.wait_for("begun")
        process.close_stdin("what is written to it does not matter")
        status, output, _ = process.end()
    assert status == 0
    assert "finished" in output
    assert output.endswith("closed")


def test_the_end_of_stdin_ends_even_a_process_whose_loop_is_blocked() -> None:
    with started("run", "ticking:blocking", "--drain-timeout", "0") as process:
        process.wait_for("begun")
        process.close_stdin()
        status, _, _ = process.end()
    assert status == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_third_signal_ends_even_work_that_resists(number: signal.Signals) -> None:
    with started("run", "ticking:resisting") as process:
        process.wait_for("begun")
        process.signal(signal.SIGTERM)
        process.wait_for("SIGTERM: draining")
        process.signal(signal.SIGINT)
        process.wait_for("second signal, SIGINT")
        process.signal(number)
        assert process.end()[0] == -number


def test_a_stdin_that_has_ended_before_the_start_stops_in_good_order() -> None:
    status, output, errors = run_to_end("run", "ticking:opened_for_ever", stdin=subprocess.DEVNULL)
    assert (status, errors) == (0, "")
    assert output.endswith("closed")


@pytest.mark.usefixtures("among_the_programs")
def test_stdin_is_watched_only_once_signals_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[object] = []

    class Thread(threading.Thread):
        def start(self) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))
            raise KeyboardInterrupt

    monkeypatch.setattr(_cli_run, "threading", SimpleNamespace(Thread=Thread))
    assert main(["run", "ticking:opened_for_ever", "--stop-at-eof"]) == 130
    assert len(handlers) == 1
    assert signal.SIG_DFL not in handlers, "the end of stdin would have ended the process"


def test_a_closed_stdin_counts_as_its_end() -> None:
    status, output, errors = _through_a_shell("run ticking:opened_for_ever --stop-at-eof <&-")
    assert (status, errors) == (0, "")
    assert output.endswith("closed\n")


def _through_a_shell(command: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(tickrunner_trio.__file__).parent.parent)}
    done = subprocess.run(
        ["sh", "-c", f"exec '{sys.executable}' -W error -m tickrunner_trio {command}"],
        cwd=PROGRAMS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# What run logs


def test_a_stdout_that_nobody_reads_is_said_once_and_the_work_goes_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        status, _, errors = run_to_end("run", "ticking:brief", stdout=writer)
    finally:
        os.close(writer)
    assert status == 0
    assert errors == "tickrunner: log lines are dropped, stdout takes no more: [Errno 32] Broken pipe\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_stdout_that_is_full_is_said_once_and_the_work_goes_on() -> None:
    with Path("/dev/full").open("wb") as full:
        status, _, errors = run_to_end("run", "ticking:brief", stdout=full.fileno())
    assert status == 0
    assert errors == "tickrunner: log lines are dropped, stdout takes no more: [Errno 28] No space left on device\n"


def _records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_json_has_one_object_a_line_with_the_tick_and_all_extra() -> None:
    with started("run", "ticking:quick", "--log-format", "json") as process:
        line = json.loads(process.wait_for("tick succeeded"))
        process.signal(signal.SIGTERM)
        status, output, _ = process.end()
    assert status == 0
    records = _records(output)
    assert [record["message"] for record in records if record["logger"] == "tickrunner_trio.cli"] == [
        "services started",
        "SIGTERM: draining; a second signal cancels the work in flight",
        "services drained",
    ]
    assert records[0]["services"][0]["name"] == "quick"
    assert records[0]["services"][0]["interval"] == 0.05
    assert records[0]["request_id"] is None
    assert all(datetime.fromisoformat(record["timestamp"]).utcoffset() == timedelta(0) for record in records)
    assert line["level"] == "info"
    assert line["component"] == "quick"
    assert line["outcome"] == "success"
    assert line["duration"] >= 0
    assert len(bytes.fromhex(line["request_id"])) == 16


def test_a_failed_tick_is_one_record_with_its_traceback() -> None:
    with started("run", "ticking:failing", "--log-format", "json") as process:
        line = json.loads(process.wait_for("pass failed"))
    assert line["level"] == "error"
    assert line["component"] == "failing"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("OSError: the disk is full")


def test_text_has_a_readable_line_for_a_tick() -> None:
    with started("run", "ticking:quick") as process:
        line = process.wait_for("tick succeeded")
    words = line.split()
    assert datetime.fromisoformat(words[0]).utcoffset() == timedelta(0)
    assert words[1:5] == ["INFO", "quick:", "tick", "succeeded"]
    assert "outcome=success" in words
    assert words[-1][0] == "["
    assert len(bytes.fromhex(words[-1][1:-1])) == 4


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
def test_ticks_that_did_nothing_show_at_debug_only(level: str, shown: bool) -> None:
    with started("run", "ticking:gated", "--log-level", level) as process:
        process.wait_for("services started")
        if shown:
            assert "outcome=gated" in process.wait_for("tick skipped")
        process.signal(signal.SIGTERM)
        _, output, _ = process.end()
    assert ("gated:" in output) == shown


# What cannot be opened


def test_a_known_error_on_the_way_in_is_one_line_and_exit_status_1() -> None:
    status, output, errors = run_to_end("run", "ticking:misconfigured")
    assert (status, output) == (1, "")
    assert errors.startswith("tickrunner: ticking:misconfigured cannot be opened: LockerConfigurationError: the pooler")
    assert "transaction mode: connect to the server itself" in errors
    assert errors.count("\n") == 1


def test_traceback_shows_what_led_to_the_line() -> None:
    _, _, errors = run_to_end("run", "ticking:misconfigured", "--traceback")
    assert "Traceback" in errors
    assert errors.splitlines()[-1].startswith("tickrunner: ticking:misconfigured cannot be opened")


@pytest.mark.usefixtures("among_the_programs")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "arguments are required"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "the following arguments are required: module:attribute"),
        (["run", "ticking"], "'ticking' does not name services: write it as module:attribute"),
        (["run", "ticking:"], "does not name services"),
        (["run", ":quick"], "does not name services"),
        (["run", ".ticking:quick"], "not an absolute module name"),
        (["run", "absent:quick"], "there is no module 'absent'"),
        (["run", "ticking.absent:quick"], "there is no module 'ticking.absent'"),
        (
            ["run", "ticking:absent"],
            "has no attribute 'absent': it has blocking, brief, brief_failing, doubtful, endless",
        ),
        (["run", "ticking:quick.absent"], "has no attribute 'quick.absent'"),
        (["run", "ticking:one_service"], "is one Service, not a list: write one_service = [...]"),
        (["run", "ticking:nothing"], "gives no services: put at least one"),
        (["run", "ticking:not_services"], "gives 'quick' at index 0: every item must be a Service"),
        (["run", "ticking:number"], "is 42: it must be a list of Service, or an async context manager"),
        (["run", "ticking:needs_argument"], "cannot be called without arguments: missing a required argument: 'dsn'"),
        (["run", "ticking:not_decorated"], "decorate it with @contextlib.asynccontextmanager"),
        (["run", "ticking:fail"], "decorate it with @contextlib.asynccontextmanager"),
        (["run", "builtins:dict"], "builtins:dict returned {}, which is no async context manager"),
        (["run", "ticking:returns_a_list"], "is a function that returns a list: name the list itself"),
        (
            ["run", "ticking:broken.services"],
            "'broken.services' of module 'ticking' cannot be had: RuntimeError: not \\x1b[31mready (ticking.py, line",
        ),
        (["run", "ticking:broken"], "is <_Broken that cannot be shown: RuntimeError>: it must be a list of Service"),
        (["run", "ticking:yields_no_list"], "gives 42: it must give a list of Service"),
        (["run", "ticking:wrong_value"], "ValueError: name must be snake_case"),
        (["run", "ticking:same_name"], "unique names, got 'twin'"),
        (["run", "ticking:same_lock"], "'left' and 'right'"),
        (["run", "ticking:quick", "--drain-timeout", "soon"], "'soon' is not a number of seconds"),
        (["run", "ticking:quick", "--drain-timeout", "-1"], "'-1' is not a number of seconds: give a finite number"),
        (["run", "ticking:quick", "--drain-timeout", "nan"], "'nan' is not a number of seconds"),
        (["run", "ticking:quick", "--log-format", "xml"], "invalid choice: 'xml'"),
        (["run", "ticking:quick", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["run", "ticking:quick", "--drain", "1"], "unrecognized arguments: --drain"),
        (["check", "absent:quick"], "there is no module 'absent'"),
        (["check", "ticking:needs_argument"], "cannot be called without arguments"),
        (["check", "ticking:yields_no_list"], "gives 42"),
        (["demo", "--replicas", "0"], "'0' is not a number of replicas: give a whole number from 1 to 20"),
        (["demo", "--replicas", "two"], "'two' is not a number of replicas"),
        (["demo", "--seconds", "3"], "'3' is not a number of seconds: give a finite number, at least 4"),
        (["demo", "--seconds", "inf"], "'inf' is not a number of seconds"),
        (["demo", "--seconds", "3001"], "give a finite number, at least 4, at most 3000"),
        (["demo", "--replicas", "1", "--kill"], "--kill needs another replica"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_that_says_what_and_exit_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == "" or arguments[1:] == ["ticking:yields_no_list"]
    assert said in errors
    assert errors.startswith("tickrunner: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import sys\nimport no_such_package\n",
            "ModuleNotFoundError: No module named 'no_such_package' (broken.py, line 2)",
        ),
        ("\nx = (\n", "SyntaxError: '(' was never closed (broken.py, line 2)"),
        ("def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError: division by zero (broken.py, line 2)"),
        ("import json\njson.loads('')\n", "(broken.py, line 2)"),
        ("import broken.inner\n", "No module named 'broken.inner'; 'broken' is not a package (broken.py, line 1)"),
        (
            "import sys\nsys.exit('bye')\n",
            "exits when it is imported: SystemExit: bye (broken.py, line 2): put that behind",
        ),
        ("raise BaseExceptionGroup('', [GeneratorExit('stray')])\n", "GeneratorExit: stray"),
        (
            "from tickrunner_trio import Config\n\nConfig(name='No', interval=1, locker=0, work=0)\n",
            "ValueError: name must be snake_case",
        ),
    ],
)
def test_a_module_that_fails_while_imported_is_told_apart_from_one_that_is_not_there(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(text)
    status, output, errors = run_to_end("run", "broken:services", cwd=tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith("tickrunner: module 'broken' ")
    assert said in errors
    assert "(broken.py, line " in errors or "GeneratorExit" in text
    assert errors.count("\n") == 1


def test_an_attribute_that_a_module_fails_to_compute_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def __getattr__(name):\n    raise OSError(name)\n")
    status, output, errors = run_to_end("run", "broken:services", cwd=tmp_path)
    assert (status, output) == (2, "")
    assert "attribute 'services' of module 'broken' cannot be had: OSError: services (broken.py, line 2)" in errors
    assert errors.count("\n") == 1


# check


def _checked(attribute: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["check", f"ticking:{attribute}"])
    return status, capsys.readouterr().out


@pytest.mark.usefixtures("among_the_programs")
def test_check_prints_a_table_of_sound_services(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = _checked("sound", capsys)
    assert status == 0
    assert [line.split() for line in output.splitlines()] == [
        ["service", "interval", "timeout", "lock", "id", "cadence", "verdict"],
        ["first", "0.05", "s", "30", "s", "1238390987156708043", "replica", "ok"],
        ["second", "0.05", "s", "30", "s", "7", "replica", "ok"],
    ]


@pytest.mark.usefixtures("among_the_programs")
def test_check_names_both_services_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = _checked("same_name", capsys)
    assert status == 1
    first, other, last = output.splitlines()[1:]
    assert "error: 'twin' is the name of services 1 and 3: rename one" in first
    assert other.endswith(" ok")
    assert "error: 'twin' is the name of services 3 and 1: rename one" in last


@pytest.mark.usefixtures("among_the_programs")
def test_check_names_both_services_of_one_lock_id(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = _checked("same_lock", capsys)
    assert status == 1
    left, right = output.splitlines()[1:]
    assert "error: 'left' and 'right' have the same lock id" in left
    assert "error: 'right' and 'left' have the same lock id" in right


@pytest.mark.usefixtures("among_the_programs")
def test_check_warns_and_is_content(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = _checked("doubtful", capsys)
    assert status == 0
    hourly, daily, patient = output.splitlines()[1:]
    assert hourly.endswith(" ok"), "an hour is not above an hour"
    assert "warning: interval above one hour" in daily
    assert "warning: no tick_timeout" in patient


def test_check_warns_of_a_long_interval_only_where_there_is_no_ledger() -> None:
    async def work(tick: Tick) -> None:
        raise AssertionError("check runs nothing")

    def checked(locker: PostgresLocker) -> Checked:
        [of_one] = check_services(
            [Service(Config(name="daily", interval=86400, locker=locker, work=work, tick_timeout=60))]
        )
        return of_one

    assert checked(PostgresLocker("", ledger=True)).verdict == "ok"
    assert "without a ledger" in checked(PostgresLocker("")).verdict


@pytest.mark.usefixtures("among_the_programs")
def test_check_enters_the_context_manager_and_leaves_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = _checked("opened", capsys)
    assert status == 0
    assert output.splitlines()[:2] == ["opened", "closed"]
    assert "half" in output.splitlines()[3]


@pytest.mark.usefixtures("among_the_programs")
def test_check_says_in_one_line_that_services_cannot_be_opened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "ticking:misconfigured"]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert "LockerConfigurationError" in errors


def test_ctrl_c_during_a_check_is_exit_status_130_without_a_traceback() -> None:
    with started("check", "ticking:opened_for_ever") as process:
        process.wait_for("opening")
        process.signal(signal.SIGINT)
        status, output, errors = process.end()
    assert (status, errors) == (130, "")
    assert output.endswith("closed")


def test_ctrl_c_during_the_import_of_a_module_is_exit_status_130_too(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt")
    assert run_to_end("check", "slow:services", cwd=tmp_path) == (130, "", "")


# errors and formats by themselves


def test_help_shows_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "{run,check,demo,status,pause,resume,trigger,ledger}" in output
    for command in ("run", "check", "demo", "status", "pause", "resume", "trigger", "ledger"):
        assert f"\n    {command} " in output


@pytest.mark.parametrize("command", ["run", "check", "demo", "status", "pause", "resume", "trigger", "ledger"])
def test_each_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tickrunner {command} ")


def test_the_process_is_asked_for_its_arguments_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tickrunner", "check", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith("usage: tickrunner check ")


def test_the_version_is_that_of_the_package_and_of_what_is_installed() -> None:
    status, output, errors = run_to_end("--version")
    assert (status, output, errors) == (0, f"tickrunner {tickrunner_trio.__version__}", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", tickrunner_trio.__version__)  # as semantic versioning has it
    assert importlib.metadata.version("tickrunner-trio") == tickrunner_trio.__version__


@pytest.mark.usefixtures("among_the_programs")
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(options: object) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr(_cli, "_check", check)
    with pytest.raises(KeyError, match="a bug"):
        main(["check", "ticking:quick"])


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.usefixtures("among_the_programs")
def test_ctrl_c_and_exit_are_what_they_are_within_a_group(command: str) -> None:
    assert main([command, "ticking:is_interrupted"]) == 130
    with pytest.raises(SystemExit) as ended:
        main([command, "ticking:exits"])
    assert ended.value.code == 7


@pytest.mark.parametrize(
    ("command", "target", "said"),
    [
        ("check", "fails_when_left", "failed while it was closed: KeyError: 'a bug' (ticking.py, line"),
        (
            "run",
            "fails_while_it_runs",
            "failed while it ran: OSError: the \\x1b[31mqueue\\x1b[0m is gone (ticking.py, line",
        ),
    ],
)
def test_a_context_manager_that_fails_later_is_one_line_and_exit_status_1(command: str, target: str, said: str) -> None:
    status, _, errors = run_to_end(command, f"ticking:{target}")
    assert status == 1
    assert errors.startswith(f"tickrunner: ticking:{target} {said}")
    assert errors.count("\n") == 1
    status, _, errors = run_to_end(command, f"ticking:{target}", "--traceback")
    assert status == 1
    assert "Traceback" in errors
    assert "\x1b" not in errors


def test_a_context_manager_that_fails_after_the_drain_was_closed() -> None:
    with started("run", "ticking:fails_when_left") as process:
        process.wait_for("tick succeeded")
        process.signal(signal.SIGTERM)
        status, _, errors = process.end()
    assert status == 1
    assert "failed while it was closed: KeyError: 'a bug'" in errors
    assert errors.count("\n") == 1


def test_what_has_no_place_is_told_without_one() -> None:
    assert told(KeyError()) == "KeyError"
    assert told(OSError("the disk is full")) == "OSError: the disk is full"


def test_an_error_that_is_no_command_error_is_not_taken_for_one() -> None:
    command_error, bug = CommandError("one\nline", status=1), KeyError("a bug")
    assert str(command_error) == "one line"
    assert command_error_in(ExceptionGroup("", [ExceptionGroup("", [command_error])])) is command_error
    assert command_error_in(ExceptionGroup("", [command_error, bug])) is None
    assert command_error_in(bug) is None


def _record(**extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "app", "levelname": "INFO", "msg": "%s done", "args": ("all",), **extra})
    record.created = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC).timestamp()
    return record


def test_json_is_valid_whatever_extra_holds() -> None:
    circle: list[object] = []
    circle.append(circle)
    line = JsonFormatter().format(
        _record(
            level="mine",
            rate=math.nan,
            pairs={(1, 2): 3},
            circle=circle,
            kind={1},
            text="\ud800\n",
            n=1,
            stack_info="Stack:",
        )
    )
    assert "\n" not in line

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(line, parse_constant=refuse) == {
        "timestamp": "2026-01-02T03:04:05.678+00:00",
        "level": "info",
        "logger": "app",
        "message": "all done",
        "component": None,
        "request_id": None,
        "trace_id": None,
        "span_id": None,
        "extra_level": "mine",
        "stack": "Stack:",
        "rate": "nan",
        "pairs": "{(1, 2): 3}",
        "circle": "[[...]]",
        "kind": "{1}",
        "text": "\ud800\n",
        "n": 1,
    }


def test_a_record_with_a_stack_shows_it_below_its_line() -> None:
    assert TextFormatter().format(_record(stack_info="Stack:\n  here")).splitlines()[1:] == ["  Stack:", "    here"]


def test_without_a_stdout_there_is_nothing_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for nowhere in (None, io.StringIO()):
        if nowhere is not None:
            nowhere.close()
        monkeypatch.setattr(sys, "stdout", nowhere)
        end_stdout()


@pytest.mark.usefixtures("among_the_programs")
def test_a_record_that_cannot_be_handled_is_told_with_its_traceback_as_python_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # which has nothing to be set up anew
    configure_logging("text", "info")
    (handler,) = logging.getLogger().handlers

    def fails(record: logging.LogRecord) -> str:
        raise LookupError(record.msg)

    monkeypatch.setattr(handler.formatter, "format", fails)
    logging.getLogger("app").info("all done")
    assert "LookupError: all done" in capsys.readouterr().err


class _UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise ValueError("no")

    __str__ = __repr__


def _deep() -> list[object]:
    deep: list[object] = []
    for _ in range(20_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (_UnspeakableError(), "<_UnspeakableError that cannot be shown: ValueError>"),
        (_deep(), "<list that cannot be shown: RecursionError>"),
        (10**5000, "<int that cannot be shown: ValueError>"),
    ],
    ids=["repr", "deep", "long"],
)
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_a_placeholder_stands_for_what_cannot_be_shown(
    formatter: logging.Formatter, value: object, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = formatter.format(_record(extra=value))
    assert f'"extra": "{shown}"' in line or f"extra={shown}" in line
    assert "all done" in line
    line = formatter.format(_record(msg="got %s", args=(value,)))
    assert "got %s" in line
    assert "cannot be shown" in line
    assert "2 %d" in formatter.format(_record(msg="2 %d", args=("words",)))
    error = _UnspeakableError()
    assert "_UnspeakableError" in formatter.format(_record(exc_info=(_UnspeakableError, error, None)))
    assert capsys.readouterr().err == ""


def test_no_error_text_commands_the_terminal() -> None:
    error = OSError("\x1b[2J\ud800")
    line = TextFormatter().format(_record(exc_info=(OSError, error, None)))
    assert line.endswith("\n  OSError: \\x1b[2J\\ud800")


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
def test_no_text_passes_itself_off_as_a_record(line_break: str) -> None:
    forged = f"gone{line_break}2026-01-02T03:04:05.678+00:00 INFO     expiry: tick succeeded"
    error = OSError(forged)
    error.add_note(forged)
    text = TextFormatter().format(_record(msg=forged, file=forged, exc_info=(OSError, error, None), stack_info=forged))
    assert [line for line in text.splitlines() if not line.startswith("  ")] == text.splitlines()[:1]
    assert text.count("tick succeeded") == 5


def test_text_puts_the_extra_behind_the_message() -> None:
    line = TextFormatter().format(_record(component="expiry", request_id="0123456789abcdef", took=0.12345, none=None))
    assert line == "2026-01-02T03:04:05.678+00:00 INFO     expiry: all done took=0.123 [01234567]"


def test_records_of_any_logger_carry_the_request_id(tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text(
        "import logging\n"
        "import trio\n"
        "from tickrunner_trio import Config, MemoryLocker, Service\n"
        "async def work(tick):\n"
        "    await trio.to_thread.run_sync(logging.getLogger('foreign').info, 'here %s', tick.request_id)\n"
        "services = [Service(Config(name='s', interval=0.05, locker=MemoryLocker(), work=work))]\n"
    )
    with started("run", "foreign:services", "--log-format", "json", cwd=tmp_path) as process:
        line = json.loads(process.wait_for('"here '))
    assert line["component"] == "foreign"
    assert line["message"] == f"here {line['request_id']}"


def test_the_import_of_the_command_line_needs_no_extra() -> None:
    code = "import sys, tickrunner_trio._cli; print({'rich', 'psycopg'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_plain_run_has_loaded_nothing_that_only_some_ask_for(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(
        "import os, sys\n"
        "from tickrunner_trio import Config, MemoryLocker, Service\n"
        "async def work(tick):\n"
        "    os.write(1, ' '.join(sys.modules).encode())\n"
        "    os._exit(0)\n"
        "services = [Service(Config(name='s', interval=0.01, locker=MemoryLocker(), work=work))]\n"
    )
    command = [sys.executable, "-m", "tickrunner_trio", "run", "telling:services", "--log-level", "critical"]
    loaded = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    ours = {name.removeprefix("tickrunner_trio.") for name in loaded if name.startswith("tickrunner_trio.")}
    assert "_cli_run" in ours
    assert {"_cli_admin", "_cli_check", "_cli_ledger", "_cli_ledger_tables", "_cli_sdk", "_demo", "admin"}.isdisjoint(
        ours
    )
    assert "lockers._postgres" not in ours
    bare = "import sys, trio, opentelemetry.metrics, opentelemetry.trace; print(*sys.modules)"
    there = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True).stdout.split()
    assert {"json", "psycopg", "sysconfig"}.isdisjoint({*loaded} - {*there})
