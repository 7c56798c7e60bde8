"""The settings: one frozen value, read from the environment and checked before anything is opened."""

from __future__ import annotations

import math
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Beyond these, a pace is a slip of the keyboard; within them, every interval is one that a service accepts.
MIN_PACE, MAX_PACE = 0.001, 10_000.0


class SettingsError(Exception):
    """A setting is missing or wrong. The message names the variable, shows the value and says the remedy."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this replica is set up."""

    dsn: str  #: ``OBJECT_STORE_DSN``: where PostgreSQL is, as a libpq connection string or URI.
    root: Path  #: ``OBJECT_STORE_ROOT``: where the folders are; absolute, shared by all replicas.
    replica: str  #: ``OBJECT_STORE_REPLICA``: the name of this replica; by default host and process id.
    pace: float = 1.0  #: ``OBJECT_STORE_PACE``: a factor on all intervals; 0.5 is twice as often.
    rebalancing: bool = True  #: ``OBJECT_STORE_REBALANCING``: "on" or "off".

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings that the environment gives.

        Raises:
            SettingsError: a variable is missing, or its value is wrong.
        """
        return cls(
            dsn=_dsn(environment),
            root=_root(environment),
            replica=_replica(environment),
            pace=_pace(environment),
            rebalancing=_switch(environment, "OBJECT_STORE_REBALANCING", default="on"),
        )


def _required(environment: Mapping[str, str], variable: str, remedy: str) -> str:
    value = environment.get(variable, "")
    if not value.strip():
        raise SettingsError(f"{variable} must be set, got {value!r}: {remedy}")
    return value


def _dsn(environment: Mapping[str, str]) -> str:
    variable, remedy = "OBJECT_STORE_DSN", "use for example 'host=127.0.0.1 dbname=store user=store'"
    dsn = _required(environment, variable, remedy)
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Without the cause: libpq quotes the string, password and all.
        raise SettingsError(
            f"{variable} must be a PostgreSQL connection string, got {_without_password(dsn)!r}: {remedy}"
        ) from None
    return dsn


def _without_password(dsn: str) -> str:
    return re.sub(r"(password\s*=\s*|://[^:@/\s]*:)('[^']*'|[^\s@&]+)", r"\1***", dsn)


def _root(environment: Mapping[str, str]) -> Path:
    variable, remedy = "OBJECT_STORE_ROOT", "name the directory in which the folders are, with its full path"
    root = Path(_required(environment, variable, remedy))
    if not root.is_absolute():
        raise SettingsError(f"{variable} must be an absolute path, got {str(root)!r}: {remedy}")
    return root


def _replica(environment: Mapping[str, str]) -> str:
    replica = environment.get("OBJECT_STORE_REPLICA", f"{socket.gethostname()}-{os.getpid()}")
    if not replica.strip() or not replica.isprintable():
        raise SettingsError(
            f"OBJECT_STORE_REPLICA must be a printable name, got {replica!r}: choose one that tells this replica from "
            "the others, or unset it for host and process id"
        )
    return replica


def _pace(environment: Mapping[str, str]) -> float:
    value = environment.get("OBJECT_STORE_PACE", "1.0")
    try:
        pace = float(value)
    except ValueError:
        pace = math.nan
    if not MIN_PACE <= pace <= MAX_PACE:
        raise SettingsError(
            f"OBJECT_STORE_PACE must be a number from {MIN_PACE:g} to {MAX_PACE:g}, got {value!r}: "
            "use 1.0 for the usual intervals, 0.5 for twice as often"
        )
    return pace


def _switch(environment: Mapping[str, str], variable: str, *, default: str) -> bool:
    value = environment.get(variable, default)
    if value not in ("on", "off"):
        raise SettingsError(f"{variable} must be 'on' or 'off', got {value!r}: use one of the two")
    return value == "on"
