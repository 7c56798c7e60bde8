"""What users of the library test with: lockers whose faults are scripted, and what holds a locker to its promises."""

from ._conformance import BrokenPromiseError as BrokenPromiseError
from ._conformance import LockerReport as LockerReport
from ._conformance import SkippedPromise as SkippedPromise
from ._conformance import check_advisory_locker as check_advisory_locker
from ._scripted import LockAttempt as LockAttempt
from ._scripted import ScriptedLocker as ScriptedLocker
from ._steps import Busy as Busy
from ._steps import Fails as Fails
from ._steps import Grant as Grant
from ._steps import Unavailable as Unavailable
