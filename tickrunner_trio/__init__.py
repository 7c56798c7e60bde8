"""Periodic background services for Trio, once per interval over all replicas, under PostgreSQL advisory locks."""

# The house, from the ground up. Arrows of import point downwards only; tests/test_layers.py holds the modules to it.
#
#     edges        _cli, _demo, admin/ (an ASGI application and its server): import the library, never the other way
#     testing      testing/: what users of the library test with, and the only importer of Hypothesis and pytest.
#                  cluster <- play <- process, session and server, judged by timeline; conformance <- promises <-
#                  trial; scripted locker; strategies, health machine
#     ---------------------------------------------------------------------------------------------------------
#     bridges      bridges: what turns foreign functions into work: _thread_work; _asyncio_work, which runs
#                  _asyncio_tasks on _trio_asyncio_loop or _application_loop; _foreign, what they share. Nothing below
#                  or beside imports them
#     lockers      lockers/: memory; postgres (the Trio face, on its calls and watchdog) and session thread (on its
#                  sleeper), between them the lock book, on its hold ends, unwritten results and waker; opening, of the
#                  session under the thread, which says a batch; then connection and conninfo (which import psycopg).
#                  With a ledger: ledger session, on ledger statements and pipeline (which imports it too), ledger lease
#                  and watch. For one question at a time: holders; ledger, on its rows and setup, and they on
#                  transaction; short. Ledger refusals, arrays, clock, driver, losses, statistics
#     running      _attempt (one tick) <- _forced (on demand) <- _service (one loop) <- _supervisor (many); _alarm,
#                  _watching, _ledgered (a service at its locker's ledger), _reporting, _operations (what a supervisor
#                  asks of a ledger), _passes
#     observing    _audit (request id, component loggers); _utc (Trio's clock as UTC); _trio_run (who calls from
#                  elsewhere); _surroundings (what simulations replace); _telemetry/ (the only importer of
#                  opentelemetry: spans, and integers that exporters read)
#     pure         _config, _callables, _outcome, _schedule, _due_queue (whose sleep ends when), _dueness (when a ledger
#                  says a service is due), _health, _cluster_health, _statistics, _lock_ids, _version; of lockers/
#                  _timing and _deadline (of the lease), _backoff and _ledger_schema (its tables): no await, no I/O,
#                  time comes in as an argument
#     abc          abc (what others implement), _errors, _on_demand (how a package finds the last names below)
#
#     _local_postgres, its _postgres_keeper and _postgres_binaries stand alone: a throw-away server for demo and
#     tests, which imports nothing of the library.

import typing

from ._audit import TickContextFilter as TickContextFilter
from ._audit import component_logger as component_logger
from ._audit import request_id as request_id
from ._config import Config as Config
from ._errors import DatabaseUnavailableError as DatabaseUnavailableError
from ._errors import LockerConfigurationError as LockerConfigurationError
from ._errors import LockLostError as LockLostError
from ._errors import ServicePausedError as ServicePausedError
from ._health import HealthState as HealthState
from ._health import WorkerHealth as WorkerHealth
from ._lock_ids import lock_id_for as lock_id_for
from ._on_demand import on_demand as _on_demand
from ._outcome import Outcome as Outcome
from ._outcome import Tick as Tick
from ._outcome import TickReport as TickReport
from ._passes import MSG_PASS_COMPLETED as MSG_PASS_COMPLETED
from ._passes import MSG_PASS_FAILED as MSG_PASS_FAILED
from ._passes import MSG_QUOTA_METRICS_REFRESH_FAILED as MSG_QUOTA_METRICS_REFRESH_FAILED
from ._passes import handle_pass_result as handle_pass_result
from ._service import Service as Service
from ._supervisor import Supervisor as Supervisor
from ._version import __version__ as __version__
from .abc import AdvisoryLocker as AdvisoryLocker
from .abc import Lease as Lease
from .abc import QuotaMetricsRefresher as QuotaMetricsRefresher
from .lockers import MemoryLocker as MemoryLocker

# Loaded when they are asked for: they take 8 ms, to the 14 of all the rest, and many programs never do.
if typing.TYPE_CHECKING:
    from ._cluster_health import ClusterHealth as ClusterHealth
    from ._cluster_health import PastRun as PastRun
    from ._statistics import ServiceStatistics as ServiceStatistics
    from .lockers import PostgresLedger as PostgresLedger
    from .lockers import PostgresLocker as PostgresLocker
else:
    __getattr__, __dir__, __all__ = _on_demand(
        globals(),
        {
            "ClusterHealth": "._cluster_health",
            "PastRun": "._cluster_health",
            "ServiceStatistics": "._statistics",
            "PostgresLedger": ".lockers",
            "PostgresLocker": ".lockers",
        },
    )
