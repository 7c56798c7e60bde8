"""What the environment asks of OpenTelemetry, by the variables that all of its SDKs share; nothing unless it asks.

A signal (traces, metrics, logs) is on if ``OTEL_<SIGNAL>_EXPORTER`` names exporters; or if that is unset and an OTLP
endpoint is named, for all signals or this one. The SDKs' own default is to send everything to localhost, which no
plain ``tickrunner run`` may try. ``OTEL_SDK_DISABLED=true`` turns all of it off. A signal whose provider the program
has set before, while its module was imported, is left to it. To set one later is too late: the API keeps the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from ._cli_errors import UsageError, told

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

SIGNALS = ("traces", "metrics", "logs")

#: Seconds for everything that is still to be sent when the services have ended; a collector that hangs costs no more.
FLUSH_SECONDS = 3.0

_log = logging.getLogger("tickrunner_trio.cli")


@contextlib.contextmanager
def telemetry_of_environment(name: str) -> Generator[None]:
    """Have the spans, metrics and logs of the block exported as the environment asks; on the way out, send the rest.

    Args:
        name: of the program, as ``service.name``, if ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` do not say.

    Raises:
        UsageError: the packages for it are not installed, or a variable asks for what there is not, or cannot be.
        CommandError: an exporter cannot be made, because its port is taken for example.
    """
    exporters = exporters_asked_for(os.environ)
    if not exporters:
        yield
        return
    try:
        from ._cli_sdk import Sdk, signals_set_already  # noqa: PLC0415 - of the extra "otel"

        left_alone = signals_set_already() & exporters.keys()
        ours = {signal: names for signal, names in exporters.items() if signal not in left_alone}
        sdk = Sdk(name, ours)
    except ImportError as error:
        variables = ", ".join(sorted(each for each in os.environ if each.startswith("OTEL_")))
        raise UsageError(
            f"the environment asks for telemetry ({variables}), and its packages are not there ({error}): "
            "run python -m pip install 'tickrunner-trio[otel]', or set OTEL_SDK_DISABLED=true"
        ) from error
    except (ValueError, TypeError, StopIteration) as error:  # some already when its modules are imported
        raise UsageError(
            f"the SDK of OpenTelemetry cannot do what the environment asks for: {told(error)}: "
            f"correct {_settings(os.environ)}"
        ) from error
    said = [f"{signal} to {', '.join(to)}" for signal, to in ours.items()]
    said += [f"{signal} as the program has set them up itself" for signal in SIGNALS if signal in left_alone]
    with sdk.exporting(FLUSH_SECONDS):
        _log.info("telemetry: %s", "; ".join(said))
        yield


def _settings(environment: Mapping[str, str]) -> str:
    """Return the variables of the SDK itself with their values: not those of exporters, which may be secrets."""
    return ", ".join(
        f"{name}={value!r}"
        for name, value in sorted(environment.items())
        if name.startswith("OTEL_") and not name.startswith("OTEL_EXPORTER_") and not name.endswith("_EXPORTER")
    )


def exporters_asked_for(environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Return by signal the names of the exporters that are asked for; signals without any are left out."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    exporters: dict[str, list[str]] = {}
    for signal in SIGNALS:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        named = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "")
        if not named.strip():
            named = "otlp" if any(environment.get(each, "").strip() for each in endpoints) else "none"
        if names := [each.strip() for each in named.split(",") if each.strip() not in ("", "none")]:
            exporters[signal] = list(dict.fromkeys(names))
    return exporters
