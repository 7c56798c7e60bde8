"""A small object store and its maintenance: what an application with `tickrunner_trio` looks like.

::

    app          wiring and commands: the only module that knows all the others
    maintenance  the passes: replicate, rebalance, expire, clean up
    store        putting an object in
    catalogue    what is where: every statement of SQL, one short transaction each
    folders      the files: written whole or not at all
    journal      which run of which service was at work, and when
    database     connections, in threads
    settings     the environment, checked

**Why a SIGKILL at any moment loses nothing.** The catalogue is the truth, and a file is only ever touched on the
strength of a row that was committed before:

1. A file's name is never used twice, so a late removal cannot hit a file that came after.
2. Before a file is written, its name is *announced*: a row in the clean-up queue, due some time later. Killed while
   writing: the clean-up removes what is there.
3. The file is written under a temporary name, flushed to disk, renamed, and the folder flushed. Only then does one
   transaction exchange the announcement for the row of the copy. So every copy in the catalogue has a whole file.
4. To remove a copy, one transaction exchanges its row for a row in the clean-up queue; the file goes later, and its
   row in the queue last. So a removal is never forgotten, and repeating it is harmless.
5. The clean-up takes an announcement away from its writer (`writing` turns false) before it touches the file; the
   writer's transaction then finds the announcement gone and gives the copy up. A writer that was merely slow can
   therefore not end up with a row and no file.

What it does not cover is a disk that loses what it was told to keep: nothing reads a copy again once its object has two
(see `folders.CorruptFileError`). A scrubber is the service that one would add.

None of this leans on the advisory lock. The lock keeps replicas from doing the same work twice; the transactions make
it harmless when, for once, they do. Cancellation (a timeout, a lost lock) is no different from a SIGKILL.
"""
