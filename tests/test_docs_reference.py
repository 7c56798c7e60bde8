"""The pages of reference list all that the code has and nothing else: errors, messages, commands, options, statuses."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
import textwrap

import command_page
import messages as messages_module
import pytest
from messages import messages
from pages import page, pages

import tickrunner_trio
from tickrunner_trio import (
    Config,
    MemoryLocker,
    PostgresLocker,
    Service,
    _cli_errors,
    _cli_run,
    _passes,
    abc,
    admin,
    bridges,
    lockers,
    testing,
)
from tickrunner_trio._cli import _parser
from tickrunner_trio.lockers import _connection, _conninfo, _watchdog

ERRORS = page("errors")


def rows(heading: str) -> list[list[str]]:
    """The rows of all tables below a heading, up to the next one."""
    _, _, below = ERRORS.text.partition(f"\n## {heading}\n")
    part = below.partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for table in re.findall(r"(?:^\|.*\|\n)+", part, flags=re.MULTILINE)
        for line in table.splitlines()[2:]
    ]


def begin_as(texts: set[str], beginnings: list[str]) -> None:
    """Each text begins as one of the page says, and each of these begins one."""
    assert {text for text in texts if not text.startswith(tuple(beginnings))} == set()
    assert [each for each in beginnings if not any(text.startswith(each) for text in texts)] == []


def test_the_exceptions_are_those_that_users_can_import() -> None:
    modules = (tickrunner_trio, testing, lockers, abc, bridges, admin)
    public = {
        name
        for module in modules
        for name, value in vars(module).items()
        if name[0] != "_" and isinstance(value, type) and issubclass(value, BaseException)
    }
    named = [row[0] for row in rows("Exceptions")]
    assert {name.strip("`") for name in named if name.endswith("Error`") and "," not in name and "." not in name} == {
        *public,
        "RuntimeError",
    }


def test_the_messages_of_errors_are_those_of_the_code() -> None:
    found = messages()
    remedies = {*_conninfo._NOT_MENDED_BY_WAITING.values(), *_connection._NOT_MENDED_STATES.values()}
    configuration = [row[0] for row in rows("What `LockerConfigurationError` says")]
    begin_as(found["LockerConfigurationError"] | remedies, configuration)
    unavailable = found["DatabaseUnavailableError"] | {_watchdog.STUCK}  # said by name
    begin_as(unavailable, [row[0] for row in rows("What `DatabaseUnavailableError` says")])
    assert all(text.removesuffix(": …") in ERRORS.words for text in found["LockLostError"])


def test_the_messages_of_the_log_are_those_of_the_code() -> None:
    found = messages()
    leveled = {f"{level} {text}" for level in ("WARNING", "ERROR", "CRITICAL") for text in found[level]}
    leveled |= {f"WARNING {text}" for text in found["?"]}  # at that level, if it is to be acted upon
    # These two are in variables; tests/test_attempt.py and tests/test_supervisor.py hold the code to their words.
    leveled |= {f"ERROR {_passes.MSG_PASS_FAILED}", "WARNING tick skipped"}
    leveled |= {"WARNING drained: what still worked after … seconds was cancelled"}
    begin_as(leveled, [f"{row[0]} {row[1]}" for row in rows("What the log says")])


# -- The API -----------------------------------------------------------------------------------------------------------


def test_each_public_name_is_in_the_reference() -> None:
    text = page("reference").text
    modules = (tickrunner_trio, abc, admin, bridges, lockers, testing)
    public = {
        name
        for module in modules
        for name in dir(module)
        if name[0] != "_" and getattr(getattr(module, name), "__module__", "").startswith("tickrunner_trio")
    }
    listed = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)$", text, flags=re.MULTILINE))
    assert public - listed == set()
    assert listed - public == {"strategies"} | {name for name in vars(tickrunner_trio) if name.startswith("MSG_")}


# -- The command line --------------------------------------------------------------------------------------------------

COMMAND_LINE = page("command-line")


def test_commands_and_options_are_those_of_the_parser() -> None:
    written = COMMAND_LINE.text.partition(command_page.BEGIN)[2].partition(command_page.END)[0]
    assert written == f"\n{command_page.tables()}", "python tests/command_page.py writes them into the page"


def test_exit_statuses_and_signals_are_those_of_the_modules() -> None:
    told = re.findall(r"^(0|1|2|128 \+ n) {2,}(.*)$", _cli_errors.__doc__ or "", flags=re.MULTILINE)
    assert COMMAND_LINE.tables()[0] == [list(row) for row in told]
    [picture] = COMMAND_LINE.blocks("text")
    assert textwrap.indent(picture, "    ") in textwrap.indent(inspect.cleandoc(_cli_run.__doc__ or ""), "")


def test_each_environment_variable_of_ours_is_listed() -> None:
    found = set()
    for path in messages_module.PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"TICKRUNNER_[A-Z_]+", path.read_text(encoding="utf-8")))
    assert {row[0].strip("`") for row in COMMAND_LINE.tables()[1] if row[0].startswith("`TICKRUNNER_")} == found


def commands_shown() -> list[list[str]]:
    """The arguments of each command that a page shows, without what the shell takes for itself."""
    found = []
    for each in pages():
        lines = [
            line[2:]
            for language in ("console", "text")
            for block in each.blocks(language)
            for line in block.splitlines()
            if line[:2] == "$ "
        ]
        lines += [line for block in each.blocks("sh") for line in block.splitlines()]
        for line in lines:
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words.pop(0)
            if words[:1] == ["tickrunner"]:
                found.append(list(itertools.takewhile(lambda word: word not in {"|", "&&", ">"}, words[1:])))
    return found


@pytest.mark.parametrize("arguments", commands_shown(), ids=" ".join)
def test_each_command_that_a_page_shows_exists(arguments: list[str]) -> None:
    assert _parser().parse_args(arguments).command


def test_the_providers_of_the_telemetry_page_can_be_passed(tickrunner_telemetry: testing.MemoryTelemetry) -> None:
    providers = tickrunner_telemetry.providers
    locker = MemoryLocker()
    config = Config(name="sweep", interval=60, locker=locker, work=testing.ScriptedWork())
    given = {"tracers": providers["tracer_provider"], "meters": providers["meter_provider"], "config": config}
    [block] = page("telemetry").blocks("python")
    exec(block, {"Service": Service, "PostgresLocker": PostgresLocker, "conninfo": "", **given})
