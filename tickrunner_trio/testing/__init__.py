"""What users of the library test their services with."""

from ._cluster import Cluster as Cluster
from ._faults import ClockOffset as ClockOffset
from ._faults import DatabaseAway as DatabaseAway
from ._faults import Drain as Drain
from ._faults import DropSession as DropSession
from ._faults import Fault as Fault
from ._faults import Freeze as Freeze
from ._faults import Kill as Kill
from ._faults import Partition as Partition
from ._faults import Start as Start
from ._timeline import Run as Run
from ._timeline import Skip as Skip
from ._timeline import Timeline as Timeline
