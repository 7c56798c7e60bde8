"""The span of a tick: from the moment at which its work has the lock to its judgement, its log and its hook included.

::

    gate ---> try the lock ---> [ run the work ---> judge ---> report ] ---> [hold] ---> unlock
                                |______________ the span _____________|

It begins with the work, as the report's duration does, not with the question for the lock, whose wait has a histogram
of its own; it ends later than that duration by what log and hook take. A tick whose work did not run has a span if it
is an error, made when that is known and dated back. Skipped ticks have none, unless somebody asks: of ten replicas nine
skip.

Each tick is a trace of its own, with a link to the last tick of the service that was sampled. What the work opens
becomes its child, in nurseries and threads as well, since the context goes where `request_id` goes.

Nothing here raises an `Exception`, whatever the tracer does.
"""

from __future__ import annotations

import os
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import context as current
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NoOpTracer,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer_provider,
    set_span_in_context,
)

from .._callables import place_of
from .._health import describe_error
from .._outcome import Outcome
from .._version import __version__
from ._guard import Guard
from ._names import (
    EPOCH,
    ERROR_TYPE,
    FUNCTION,
    LATENESS,
    LOCK_ID,
    LOCK_LOST,
    NUMBER,
    OUTCOME,
    OUTCOME_VALUES,
    REQUEST_ID,
    SCOPE,
    SERVICE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Token

    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from .._outcome import TickReport

_NO_PARENT = Context()

#: OpenTelemetry's own switch for its farewell to exceptions on spans: "logs" turns them off, "logs/dup" does not.
_EXCEPTION_SWITCH = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"

_SKIPPED_SWITCH = "TICKRUNNER_TRACE_SKIPPED"
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


class ServiceTracer:
    """Makes the spans of one service.

    Args:
        name: of the service.
        lock_id: of its lock.
        provider: None: the global one, also if that is set later.
        trace_skipped: whether skipped ticks have spans too; None: what ``TICKRUNNER_TRACE_SKIPPED`` says.

    Raises:
        TypeError: ``provider`` is none, or ``trace_skipped`` is not a bool.
        ValueError: ``TICKRUNNER_TRACE_SKIPPED`` says neither yes nor no.
    """

    __slots__ = (
        "_fixed",
        "_function",
        "_span_name",
        "_trace_skipped",
        "_tracer",
        "guard",
        "links",
        "record_exceptions",
    )

    def __init__(self, name: str, lock_id: int, *, provider: TracerProvider | None, trace_skipped: bool | None) -> None:
        self.guard = Guard(f"the service {name}")
        self._tracer = self._tracer_of(_checked_provider(provider))
        self._span_name = f"tick {name}"
        self._fixed: dict[str, AttributeValue] = {SERVICE: name, LOCK_ID: lock_id}
        self._function: object = None  # whose name is in there as well
        self._trace_skipped = _wants_skipped() if trace_skipped is None else _checked_bool(trace_skipped)
        self.record_exceptions = "logs" not in os.environ.get(_EXCEPTION_SWITCH, "").replace(" ", "").split(",")
        self.links: Sequence[Link] = ()  #: Of the next span, to the last one that was sampled.

    def begin(
        self,
        function: object,
        request_id: str,
        number: int,
        *,
        lateness: float,
        epoch: int | None,
        seconds_ago: float = 0.0,
    ) -> TickSpan | None:
        """Begin the span of a tick whose work begins now, or began so many seconds ago, and make it the current one.

        None: nobody wants it, since the tracer is switched off, or there is no SDK. What is current stays so.
        All that is known is said here: a sampler sees nothing else, and each later attribute costs twice as much.
        """
        if function is not self._function:
            self._function = function
            self._fixed = {**self._fixed, FUNCTION: ".".join(place_of(function))}
        attributes: dict[str, AttributeValue] = {
            **self._fixed,
            REQUEST_ID: request_id,
            NUMBER: number,
            LATENESS: lateness,
        }
        if epoch is not None:
            attributes[EPOCH] = epoch
        start = time_ns() - int(seconds_ago * 1e9) if seconds_ago else None
        try:
            span = self._tracer.start_span(
                self._span_name, _NO_PARENT, attributes=attributes, links=self.links, start_time=start
            )
        except Exception as error:
            self.guard.failed("beginning a span", error)
            return None
        return None if span is INVALID_SPAN else TickSpan(self, span, current.attach(set_span_in_context(span)))

    def begin_late(self, outcome: Outcome, report_of: Callable[[], TickReport], function: object) -> TickSpan | None:
        """Begin the span of a tick whose work did not run, dated back; None: it has none."""
        if outcome.result == "skipped" and not self._trace_skipped:
            return None
        report = report_of()
        return self.begin(
            function,
            report.request_id,
            report.number,
            lateness=report.lateness,
            epoch=report.epoch,
            seconds_ago=report.duration,
        )

    def _tracer_of(self, provider: TracerProvider | None) -> Tracer:
        try:
            return (get_tracer_provider() if provider is None else provider).get_tracer(SCOPE, __version__)
        except Exception as error:
            self.guard.failed("making a tracer", error)
            return NoOpTracer()


class TickSpan:
    """The span of one tick while it is the current one. Made and ended in the tick's task."""

    __slots__ = ("_span", "_token", "_tracer")

    def __init__(self, tracer: ServiceTracer, span: Span, token: Token[Context]) -> None:
        self._tracer = tracer
        self._span = span
        self._token = token

    def judged(self, outcome: Outcome, error: BaseException | None, *, lost_for: float) -> None:
        """Write down what came of the tick; of a lost lock, for how many seconds it has been."""
        span, tracer = self._span, self._tracer
        try:
            if not span.is_recording():
                return
            span.set_attribute(OUTCOME, OUTCOME_VALUES[outcome])
            if error is None or outcome.result != "error":
                return
            span.set_attribute(ERROR_TYPE, _type_of(error))
            span.set_status(Status(StatusCode.ERROR, describe_error(error)))
            if outcome is Outcome.LOCK_LOST:
                span.add_event(LOCK_LOST, timestamp=time_ns() - int(lost_for * 1e9))
            if tracer.record_exceptions:
                span.record_exception(error)
        except Exception as raised:
            tracer.guard.failed("writing to a span", raised)

    def end(self) -> None:
        """End it, after the log and the hook; what was current before is current again.

        The next tick's span will link to it if it was sampled.
        """
        current.detach(self._token)
        span, tracer = self._span, self._tracer
        try:
            if not span.is_recording():
                return
            span.end()
            context = span.get_span_context()
            if context.trace_flags.sampled:
                tracer.links = (Link(context),)
        except Exception as error:
            tracer.guard.failed("ending a span", error)


def _type_of(error: BaseException) -> str:
    """Return the kind of an error by the name under which it is imported: without private modules on the way."""
    kind = type(error)
    public = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return kind.__qualname__ if public == ["builtins"] else ".".join([*public, kind.__qualname__])


def _wants_skipped() -> bool:
    said = os.environ.get(_SKIPPED_SWITCH, "").strip().lower()
    if said not in _YES + _NO:
        raise ValueError(f"{_SKIPPED_SWITCH} must be 1 or 0, got {said!r}: unset it, or set it to 1")
    return said in _YES


def _checked_bool(trace_skipped: object) -> bool:
    if not isinstance(trace_skipped, bool):
        raise TypeError(f"trace_skipped must be a bool, got {trace_skipped!r}: use True, False, or leave it out")
    return trace_skipped


def _checked_provider(provider: object) -> TracerProvider | None:
    if provider is None or isinstance(provider, TracerProvider):
        return provider
    raise TypeError(
        f"tracer_provider must be an opentelemetry.trace.TracerProvider, got {provider!r}: "
        "leave it out to use the global one"
    )
