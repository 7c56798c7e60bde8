"""The version of this package. The only place; the build reads it from here, and the installed metadata have it too.

Whoever imports the library would pay 20 ms for asking `importlib.metadata`, which loads parsers for mail, CSV and ZIP.
"""

__version__ = "0.1.0"
