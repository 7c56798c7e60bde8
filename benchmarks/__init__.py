"""How fast this library is, beside the peers that users would pick instead and beside what the machine can do.

::

    __main__       the command line: measure, show, judge, compare or write
      questions/     one module per question: ways, figures, targets, how to read them; and how ours is measured
      peers/         one module per peer: how it is configured, and how it is measured
        loops, lateness, resident, clocks, databases, imports     what the measured programs have in common
      measuring      rounds; each measurement in a process of its own, which is `worker`
      results        medians, spreads, verdicts, what got worse                  pure
      tables, plots  Markdown and SVG                                            pure
        question     the words that all of these use                             pure
      surroundings   commit, versions, processor

A module of peers is imported in the process that measures it and nowhere else: one that is not installed makes its own
rows fail.
"""
