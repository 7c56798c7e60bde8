"""The fault campaign: real replicas over a real server, every fault we know, and a judge who believes none of them.

::

    campaign     which faults, in which order, for how long; what is checked at the end   (the program, and the tests)
        |
    injections   one function per fault ---- arena: the server, the replicas, their relays, the journal of what was done
        |                                      |
        |             .------------------------+------------------------.
        |             |                        |                        |
        |        replica (program)        relay (TCP), network     control (program)
        |             |                     of its own                  |
        |             `----> record: one file, O_APPEND, no fault touches it
        |                       |
        `--- journal ---->   judge (pure) ---> verdict, timeline

A replica runs the library's `Supervisor` over `PostgresLocker`, honest or broken on purpose (`broken_lockers`). Its
work does nothing but write into the record that it runs. The control does the same without any lock, on each processor:
where it was late the machine was, and no locker is blamed for that.

``storm`` is a campaign of its own within one process: tasks that are cancelled at random while sessions are killed.
"""
