"""What an operator sees of ticks and lockers, told to OpenTelemetry: the only importer of its API in the library.

::

    _names     what there is to see: instruments, spans, attributes; docs/telemetry.md is held to it
    _registry  one instrument per provider and name, whose callback reads plain integers  <- _meters: who counts what
    _times     what the histograms are told, some ticks at a time
    _spans     a span around the work of each tick; _ids, which log records carry
    _guard     nothing that a provider raises reaches a tick

The API is all that the library needs; it does next to nothing until the application, or ``tickrunner run``, sets up an
SDK. There is nothing to import here: `_audit` needs `_ids`, and `_guard` needs the logging of `_audit`.
"""
