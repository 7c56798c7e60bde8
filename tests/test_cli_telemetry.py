"""`tickrunner run` with a real SDK, as a real process: what a collector receives, and that none can hold it up."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_processes import PROGRAMS, run_to_end, started
from opentelemetry.util.re import parse_env_headers
from otlp_receiver import Receiver, receiver, values
from prometheus import free_port

import tickrunner_trio
from tickrunner_trio import Outcome
from tickrunner_trio._cli_errors import UsageError
from tickrunner_trio._cli_sdk import Sdk
from tickrunner_trio._cli_telemetry import FLUSH_SECONDS, exporters_asked_for
from tickrunner_trio._demo import _telemetry

OTLP = "otlp"
WITH_LOGS = ("--log-format", "json", "--log-level", "debug")
NOWHERE = "http://127.0.0.1:9"  # discard: nobody listens
REFUSED = "the SDK of OpenTelemetry cannot do what the environment asks for: "


def run_brief(target: str, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a target of `ticking` until it ends itself; return status, log records and stderr."""
    status, stdout, stderr = run_to_end("run", f"ticking:{target}", *WITH_LOGS, **environment)
    return status, [json.loads(line) for line in stdout.splitlines() if line.startswith("{")], stderr


# -- What the environment asks for -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, {}),
        ({"OTEL_SERVICE_NAME": "app", "OTEL_RESOURCE_ATTRIBUTES": "a=b"}, {}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE}, {"traces": [OTLP], "metrics": [OTLP], "logs": [OTLP]}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": NOWHERE}, {"traces": [OTLP]}),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, {"metrics": ["prometheus"]}),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE,
                "OTEL_METRICS_EXPORTER": "prometheus",
                "OTEL_LOGS_EXPORTER": "none",
            },
            {"traces": [OTLP], "metrics": ["prometheus"]},
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp,console"}, {"traces": ["console", OTLP]}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_SDK_DISABLED": "TRUE"}, {}),
        ({"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_SDK_DISABLED": "false"}, {"metrics": ["prometheus"]}),
    ],
)
def test_only_what_is_asked_for_is_exported(environment: dict[str, str], exporters: dict[str, list[str]]) -> None:
    assert exporters_asked_for(environment) == exporters


def test_a_plain_run_needs_no_sdk(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.sdk'] = None\n")
    path = f"{tmp_path}:{Path(tickrunner_trio.__file__).parents[1]}"
    status, records, stderr = run_brief("brief", PYTHONPATH=path, OTEL_SERVICE_NAME="app")
    assert (status, stderr) == (0, "")
    assert not [record for record in records if "telemetry" in record["message"]]
    assert {record["trace_id"] for record in records} == {None}


@pytest.mark.parametrize(
    ("environment", "status", "said"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            2,
            "OTEL_TRACES_EXPORTER names 'zipkin', which is not installed: use one of ",
        ),
        ({"OTEL_TRACES_EXPORTER": "prometheus"}, 2, "OTEL_TRACES_EXPORTER names 'prometheus'"),
        (
            {"OTEL_METRICS_EXPORTER": OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            *(2, "OTEL_EXPORTER_OTLP_PROTOCOL must be one of http/protobuf, grpc, got 'http/json': unset it"),
        ),
        (
            {"OTEL_LOGS_EXPORTER": OTLP, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"},
            *(2, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs a package of its own: run 'python -m pip install"),
        ),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "many"},
            *(2, "the exporter 'prometheus' of OTEL_METRICS_EXPORTER cannot be made: ValueError: invalid literal"),
        ),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "99999"},
            *(2, "the exporter 'prometheus' of OTEL_METRICS_EXPORTER cannot be made: OverflowError: "),
        ),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_HOST": "no.such.host.invalid"},
            *(1, "the exporter 'prometheus' of OTEL_METRICS_EXPORTER cannot be made: gaierror: "),
        ),
        *(
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, variable: value}, 2, f"{REFUSED}{error}")
            for variable, value, error in [
                ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "ValueError: max_queue_size must be a positive integer"),
                ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "100000", "ValueError: max_export_batch_size must be"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "-5", "ValueError: interval value -5"),
                ("OTEL_METRICS_EXEMPLAR_FILTER", "foo", "ValueError: Unknown exemplar filter 'foo'"),
                # Refused when the SDK is imported, by each release in its own words.
                ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-1", "ValueError: "),
                ("OTEL_PYTHON_TRACER_PROVIDER", "nosuch", "StopIteration"),
            ]
        ),
    ],
)
def test_a_variable_that_cannot_be_followed_is_said_in_one_line(
    environment: dict[str, str], status: int, said: str
) -> None:
    got, _, stderr = run_brief("brief", **environment)
    assert got == status
    assert stderr.startswith(f"tickrunner: {said}")
    assert stderr.count("\n") == 1
    if said.startswith(REFUSED):
        [(variable, value)] = [each for each in environment.items() if not each[0].startswith("OTEL_EXPORTER_")]
        assert stderr.endswith(f": correct {variable}={value!r}\n")


def test_what_may_be_a_secret_is_not_shown() -> None:
    headers = {
        "OTEL_EXPORTER_OTLP_HEADERS": "key=secret",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@127.0.0.1:9",
    }
    status, _, stderr = run_brief("brief", OTEL_BSP_MAX_QUEUE_SIZE="-1", OTEL_SERVICE_NAME="shop", **headers)
    assert status == 2
    assert stderr.endswith(": correct OTEL_BSP_MAX_QUEUE_SIZE='-1', OTEL_SERVICE_NAME='shop'\n")
    assert "secret" not in stderr


def test_no_global_provider_is_set_where_another_one_is_refused() -> None:
    program = """if True:
        from tickrunner_trio._cli_errors import UsageError
        from tickrunner_trio._cli_sdk import signals_set_already
        from tickrunner_trio._cli_telemetry import telemetry_of_environment
        try:
            telemetry_of_environment("app").__enter__()
        except UsageError:
            print(sorted(signals_set_already()))
    """
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_BLRP_MAX_QUEUE_SIZE": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_missing_packages_are_said_with_the_remedy(tmp_path: Path) -> None:
    # Python imports this first of all; afterwards the SDK is as good as not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.sdk'] = None\n")
    path = f"{tmp_path}:{Path(tickrunner_trio.__file__).parents[1]}"
    status, _, stderr = run_brief("brief", PYTHONPATH=path, OTEL_TRACES_EXPORTER=OTLP)
    assert status == 2
    assert "the environment asks for telemetry (OTEL_TRACES_EXPORTER), and its packages are not there" in stderr
    assert "pip install 'tickrunner-trio[otel]'" in stderr


# -- End to end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["brief_failing", "opened_brief_failing"])
def test_a_collector_receives_spans_metrics_and_logs_of_one_story(target: str) -> None:
    with receiver() as collector:
        status, records, stderr = run_brief(
            target, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_SERVICE_NAME="shop"
        )
    assert (status, stderr) == (0, "")
    # Everything was sent at the drain: the SDK's own intervals, 5 seconds and a minute, are longer than this run.
    spans = {values(span.attributes)["tickrunner.tick.number"]: span for _, span in collector.spans}
    failed = [record for record in records if record["message"] == "pass failed"]
    assert len(spans) == len(failed) >= 3
    for record in failed:
        span = spans[record["number"]]
        assert span.name == "tick brief_failing"
        assert span.status.message == "OSError: the disk is full"
        assert values(span.attributes)["error.type"] == "OSError"
        assert values(span.attributes)["tickrunner.outcome"] == "failed"
        assert (span.trace_id.hex(), span.span_id.hex()) == (record["trace_id"], record["span_id"])
        [sent] = [
            each
            for _, each in collector.logs
            if each.span_id == span.span_id and each.body.string_value == "pass failed"
        ]
        assert sent.trace_id == span.trace_id
        attributes = values(sent.attributes)
        assert attributes["request_id"] == record["request_id"]
        assert attributes["component"] == "brief_failing"
        assert "in fail_thrice" in attributes["exception.stacktrace"]
        assert not {"trace_id", "span_id"} & attributes.keys()
    for number in sorted(spans)[1:]:
        assert [link.span_id for link in spans[number].links] == [spans[number - 1].span_id]
    assert last_points(collector, "tickrunner.ticks", "brief_failing") == {
        (outcome.result, outcome.value): len(failed) if outcome is Outcome.FAILED else 0 for outcome in Outcome
    }
    assert last_points(collector, "tickrunner.consecutive_failures", "brief_failing") == {(): len(failed)}


def last_points(collector: Receiver, name: str, service: str) -> dict[tuple[str, ...], float]:
    """The points of one service that were sent last, by result and outcome where there are any."""
    metric = [metric for _, metric in collector.metrics if metric.name == name][-1]
    points = metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points
    found = {}
    for point in points:
        attributes = values(point.attributes)
        if attributes.pop("tickrunner.service") == service:
            of = tuple(attributes[f"tickrunner.{each}"] for each in ("result", "outcome") if attributes)
            found[of] = point.as_int if point.HasField("as_int") else point.as_double
    return found


def test_each_process_is_an_instance_of_its_own_under_one_name() -> None:
    with receiver() as collector:
        for _ in range(2):
            assert run_brief("brief", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/v1/traces")[0] == 0
    resources = [resource for resource, _ in collector.spans]
    assert {resource["service.name"] for resource in resources} == {"ticking"}
    assert len({resource["service.instance.id"] for resource in resources}) == 2
    assert collector.logs == collector.metrics == []


def test_a_key_in_headers_that_cannot_be_read_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="not installed"):
        Sdk("app", {"traces": ["absent"]})
    parse_env_headers("authorization: Bearer sesame", liberal=True)
    parse_env_headers("authorization: Bearer sesame")
    assert caplog.text.count("***") == 2
    assert "sesame" not in caplog.text


def test_what_the_environment_says_of_the_resource_stands() -> None:
    with receiver() as collector:
        run_brief(
            "brief",
            OTEL_TRACES_EXPORTER=OTLP,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            OTEL_RESOURCE_ATTRIBUTES="service.name=shop,service.instance.id=one,zone=a",
        )
    resource, _ = collector.spans[0]
    assert {name: resource[name] for name in ("service.name", "service.instance.id", "zone")} == {
        "service.name": "shop",
        "service.instance.id": "one",
        "zone": "a",
    }


@pytest.mark.parametrize("service", ["brief", "brief_failing"])
def test_a_collector_that_hangs_delays_the_end_by_no_more_than_the_bound(service: str) -> None:
    with receiver(hangs=True) as collector:
        status, records, stderr = run_brief(service, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        ended_at = time.time()
        assert collector.asked.is_set()
        [drained] = [record for record in records if record["message"] == "services drained"]
        [dropped] = [record for record in records if "not everything was sent within" in record["message"]]
        assert (status, stderr) == (0, "")
        waited = _seconds(dropped) - _seconds(drained)
        assert FLUSH_SECONDS - 0.1 <= waited < FLUSH_SECONDS + 1
        assert ended_at - _seconds(dropped) < 5  # an exporter gives up after 10


def _seconds(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()


def test_a_collector_that_is_not_there_changes_no_exit_status() -> None:
    status, records, stderr = run_brief("brief", OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE)
    assert (status, stderr) == (0, "")
    assert "services drained" in [record["message"] for record in records]


def test_a_second_signal_still_has_its_status_and_what_there_is_is_sent() -> None:
    with (
        receiver() as collector,
        started("run", "ticking:endless", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as process,
    ):
        process.wait_for("begun")
        process.signal(signal.SIGINT)
        process.wait_for("a second signal")
        process.signal(signal.SIGTERM)
        assert process.end()[0] == 128 + signal.SIGTERM
    [(_, span)] = collector.spans
    assert values(span.attributes)["tickrunner.outcome"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_rest_is_sent_changes_no_exit_status(number: signal.Signals) -> None:
    with (
        receiver(hangs=True) as collector,
        started("run", "ticking:opened_brief_failing", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as process,
    ):
        process.wait_for("services drained")
        assert collector.asked.wait(30)  # the sending of the rest has begun, and takes until its bound
        process.signal(number)
        status, stdout, stderr = process.end()
    assert "not everything was sent within" in stdout
    assert (status, stderr) == (0, "")


def test_what_exporters_do_is_logged_and_not_sent() -> None:
    """It would be sent in requests of its own, without end."""
    often = dict.fromkeys(("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"), "20")
    with receiver() as collector:
        status, records, _ = run_brief("brief", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **often)
    assert status == 0
    theirs = [record["message"] for record in records if record["logger"].startswith("urllib3")]
    assert [message for message in theirs if "POST /v1/logs" in message]
    sent = [record.body.string_value for _, record in collector.logs]
    assert sent
    assert not set(sent) & set(theirs)


def test_the_console_shows_spans() -> None:
    _, stdout, _ = run_to_end("run", "ticking:brief", OTEL_TRACES_EXPORTER="console")
    assert '"tickrunner.service": "brief"' in stdout


def test_prometheus_scrapes_on_loopback_and_a_taken_port_is_said_with_the_remedy() -> None:
    port = free_port()
    environment = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    with started("run", "ticking:quick", **environment) as process:
        process.wait_for("services started")
        deadline = time.monotonic() + 30
        text = ""
        # Services count as started a little after they are said to be.
        while "tickrunner_service_start_timestamp_seconds{" not in text and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
        # Not on all addresses: another one of the loopback network would answer too.
        assert not _listens("127.0.0.2", port)
        status, _, stderr = run_brief("quick", **environment)
        assert status == 1
        assert re.search(
            r"Address already in use.*: set OTEL_EXPORTER_PROMETHEUS_PORT to a port that is free, "
            r"and OTEL_EXPORTER_PROMETHEUS_HOST to an address of this machine$",
            stderr,
        )
        process.signal(signal.SIGTERM)
        assert process.end()[0] == 0
    assert re.search(r'^tickrunner_ticks_total\{.*tickrunner_service="quick".*\} ', text, re.MULTILINE)
    assert re.search(r"^tickrunner_service_start_timestamp_seconds\{", text, re.MULTILINE)


def _listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((address, port)) == 0


IN_ONE_PROCESS = """
import logging
from tickrunner_trio._cli_sdk import Sdk

class ShyError(Exception):
    def __str__(self):
        raise ZeroDivisionError

root = logging.getLogger()
with Sdk("app", {"logs": ["console"]}).exporting(5):
    logging.getLogger("app").error(
        "%s and %s", "one", exc_info=ShyError(ShyError()), extra={"what": {1}, "nothing": None, "count": 3}
    )
    logging.getLogger("opentelemetry.exporter").error("could not export")
assert root.handlers == []

def fail():
    raise ZeroDivisionError

sdk = Sdk("app", {})
sdk._shutdowns.append(fail)
with sdk.exporting(5):
    pass
"""


def test_a_record_is_sent_whatever_it_holds_and_the_handler_goes_with_the_block() -> None:
    done = subprocess.run([sys.executable, "-c", IN_ONE_PROCESS], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("telemetry: a provider could not be shut down\nTraceback")
    record = json.loads(done.stdout)
    assert record["body"] == "%s and %s ('one',)"
    attributes = record["attributes"]
    assert {name: attributes[name] for name in attributes if not name.startswith("code.")} == {
        "component": "app",
        "what": "{1}",
        "count": 3,
    }
    assert record["severity_text"] == "ERROR"


SET_UP_BY_THE_PROGRAM = {
    "traces": """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
""",
    "metrics": """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
metrics.set_meter_provider(MeterProvider())
""",
    "logs": """
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
set_logger_provider(LoggerProvider())
""",
}


def run_program(directory: Path, program: str, **environment: str) -> tuple[int, str, str]:
    """Run the target ``program:services``; `ticking` is beside it."""
    (directory / "program.py").write_text(program)
    (directory / "ticking.py").write_bytes((PROGRAMS / "ticking.py").read_bytes())
    return run_to_end("run", "program:services", cwd=directory, **environment)


@pytest.mark.parametrize("theirs", SET_UP_BY_THE_PROGRAM)
def test_a_signal_that_the_program_has_set_up_is_left_to_it_and_the_others_are_sent(
    theirs: str, tmp_path: Path
) -> None:
    program = SET_UP_BY_THE_PROGRAM[theirs] + "from ticking import brief as services"
    with receiver() as collector:
        status, stdout, stderr = run_program(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert (status, stderr) == (0, "")
    sent = {"traces": collector.spans, "metrics": collector.metrics, "logs": collector.logs}
    assert [signal for signal, what in sent.items() if not what] == [theirs]
    ours = "; ".join(f"{signal} to otlp" for signal in sent if signal != theirs)
    assert f"telemetry: {ours}; {theirs} as the program has set them up itself" in stdout
    assert "Overriding" not in stdout


def test_a_program_that_sets_its_own_while_it_is_opened_is_told_that_it_comes_too_late(tmp_path: Path) -> None:
    program = """
from contextlib import asynccontextmanager
import ticking

@asynccontextmanager
async def services():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    yield ticking.brief
"""
    with receiver() as collector:
        status, stdout, stderr = run_program(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert (status, stderr) == (0, "")
    assert "Overriding of current TracerProvider is not allowed" in stdout
    assert len(collector.spans) >= 3


def test_records_of_other_loggers_are_sent_with_the_ids_of_the_tick_whatever_the_program_does_to_logging(
    tmp_path: Path,
) -> None:
    program = """
import logging
import ticking

logging.basicConfig(level="INFO", force=True, format="%(message)s has %(keys)s", style="%")
logging.getLogger().handlers[0].addFilter(lambda record: setattr(record, "keys", sorted(vars(record))) or True)

async def work(tick):
    logging.getLogger("httpx").warning("GET %s", tick.request_id)
    await ticking.end_the_process(tick)

services = [ticking.service("logging", work)]
"""
    with receiver() as collector:
        status, _, stderr = run_program(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert status == 0
    got = [record for _, record in collector.logs if record.body.string_value.startswith("GET")]
    assert len(got) >= 3
    spans = {span.span_id for _, span in collector.spans}
    for record in got:
        attributes = values(record.attributes)
        assert f"GET {attributes['request_id']}" == record.body.string_value
        assert attributes["component"] == "httpx"
        assert record.span_id in spans
    # The record itself, which the program's own handlers get, is as it was.
    [line, *_] = [line for line in stderr.splitlines() if line.startswith("GET")]
    assert "request_id" not in line


def test_the_replicas_of_the_demo_are_told_apart(dsn: str) -> None:
    """With ``dsn``, since a server of the demo's own would take seconds."""
    with receiver() as collector:
        arguments = ("--replicas", "2", "--seconds", "4", "--no-kill")
        status, stdout, stderr = run_to_end(
            "demo", *arguments, TICKRUNNER_TEST_DSN=dsn, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
        )
    assert (status, stderr) == (0, ""), stdout
    resources = {(resource["service.name"], resource["service.instance.id"]) for resource, _ in collector.spans}
    # In such a short time one of them may find all services busy, and so have no span and no success.
    assert resources
    assert resources <= {("object_store", "replica-1"), ("object_store", "replica-2")}

    def told(name: str) -> set[object]:
        return {resource["service.instance.id"] for resource, metric in collector.metrics if metric.name == name}

    # At the drain, when the context manager of the example was left, and its locker closed.
    assert told("tickrunner.ticks") == told("tickrunner.locker.sessions") == {"replica-1", "replica-2"}
    assert told("tickrunner.last_success.timestamp")


def test_the_replicas_of_the_demo_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "zone=a")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "9500")
    assert _telemetry("replica-3", 3) == {
        "OTEL_RESOURCE_ATTRIBUTES": "zone=a,service.instance.id=replica-3",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "9502",
    }
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "many")
    assert "OTEL_EXPORTER_PROMETHEUS_PORT" not in _telemetry("replica-3", 3)


@pytest.mark.filterwarnings("ignore:.LoggingHandler.:DeprecationWarning")
def test_a_record_that_cannot_be_sent_at_all_is_told_of_as_by_any_handler(capsys: pytest.CaptureFixture[str]) -> None:
    from tickrunner_trio._cli_sdk import _OtlpHandler  # noqa: PLC0415 - the SDK is slow to import

    provider: Any = object()  # it makes no loggers
    _OtlpHandler(logger_provider=provider).emit(logging.makeLogRecord({"name": "shop", "msg": "lost"}))
    assert "--- Logging error ---" in capsys.readouterr().err
