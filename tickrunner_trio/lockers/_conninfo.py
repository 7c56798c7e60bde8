"""The user's connection string, and what libpq says when it leads nowhere: which of that waiting will not mend."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .._errors import LockerConfigurationError

if TYPE_CHECKING:
    from psycopg.abc import ConnDict

_CONNECT_SECONDS = 5  # libpq's own default is to wait for ever

_HOW_TO_WRITE = (
    "conninfo is not a connection string that PostgreSQL's client library can read: write it as "
    "'postgresql://user:password@host:port/database' with :/?#@% in the password percent-encoded, "
    "or as 'host=... dbname=... password=...' with values that hold spaces in single quotes"
)
_CREDENTIALS = "correct the user, the password or the database in conninfo, or the server's pg_hba.conf"

# libpq does not hand out the SQLSTATE of a refused connection, only the text, in the language of the server's
# lc_messages. Where that is not English, these are reported as DatabaseUnavailableError, with the server's reason.
_NOT_MENDED_BY_WAITING = {
    r"authentication failed for user|no password supplied": _CREDENTIALS,  # 28P01, 28000
    r"pg_hba\.conf (entry|rejects)|is not permitted to log in|permission denied for database": _CREDENTIALS,
    r"FATAL: +(role|database) .* does not exist": _CREDENTIALS,  # 28000, 3D000
    r"(^|failed: )(invalid |could not match |bad value |\S+ parameter must be )": "correct that parameter of conninfo",
    r"could not parse network address|Servname not supported": "correct hostaddr or port in conninfo",
    r"definition of service .* not found": "correct service in conninfo, or the service file",
    r"authentication method requirement": "correct require_auth in conninfo, or the server's pg_hba.conf",
    r"does not support SSL": "correct sslmode in conninfo, or switch on SSL at the server",
    r"root certificate file .* does not exist|certificate verify failed|does not match host name": (
        "correct host, sslrootcert or sslmode in conninfo"
    ),
    r"unsupported startup parameter": (
        "take it out of conninfo and PGOPTIONS, or let the pooler pass over it (ignore_startup_parameters of PgBouncer)"
    ),
}


def parameters_of(conninfo: str) -> ConnDict:
    """Parse the user's connection string and add our defaults for what neither it nor the environment says.

    Raises:
        LockerConfigurationError: libpq cannot read it, or would quote a password of it.
    """
    try:
        parameters = None if _is_ambiguous(conninfo) else conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError):
        parameters = None
    # A password where the host was forgotten is taken for a port, which libpq would quote.
    if parameters is not None and re.fullmatch(r"[\d,\s]*", str(parameters.get("port", ""))) is None:
        parameters = None
    if parameters is None:  # raised out here: in the clause above the error would have one with the password as context
        raise LockerConfigurationError(_HOW_TO_WRITE)
    defaults: dict[str, tuple[str, int | str]] = {
        "connect_timeout": ("PGCONNECT_TIMEOUT", _CONNECT_SECONDS),
        # A standby grants the same ids as its primary, and its session survives promotion.
        "target_session_attrs": ("PGTARGETSESSIONATTRS", "read-write"),
    }
    for name, (variable, value) in defaults.items():
        if variable not in os.environ:
            parameters.setdefault(name, value)
    # The pid comes first, because the server cuts it off after 63 bytes. libpq looks at it last of all: after
    # application_name in the string, PGAPPNAME and a service file.
    parameters.setdefault("fallback_application_name", f"tickrunner_trio {os.getpid()} {socket.gethostname()}")
    return parameters


def _is_ambiguous(conninfo: str) -> bool:
    """Whether libpq would take a part of the password for a host or a database, and then quote it.

    It ends user and password at the first ``@``, unless a ``/`` comes before that.
    """
    uri = re.match(r"postgres(?:ql)?://(?:[^@/]*@)?([^?]*)", conninfo)
    return uri is not None and "@" in uri[1]


def remedy_for(said: str) -> str | None:
    """Return what to do about what libpq or the server said of a connection; None: waiting may mend it."""
    said = " ".join(said.split())
    return next((remedy for pattern, remedy in _NOT_MENDED_BY_WAITING.items() if re.search(pattern, said)), None)
