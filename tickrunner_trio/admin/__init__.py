"""An ASGI application that shows the services of a `tickrunner_trio.Supervisor` and operates them; and a server.

Of the extra ``admin``. `admin_app` is to be mounted in an application of yours, or served: by `serve_admin` on Trio,
as ``tickrunner run --admin`` does, or by any ASGI server.
"""

# The rooms, from the ground up; no arrow of import points upwards:
#
#     _app         the routes: who may ask for what, and what is answered
#     _operating   the routes that ask the ledger
#     _board       what everybody sees, made once for all who look; _stream: how it is sent on and on
#     _holders     who holds the locks; _cluster: what the ledger knows. Both are _asked, seldom and only while somebody
#                  looks; _crossing: the way into Trio's loop
#     _serving     connections on Trio, within bounds; _exchange: what is said on one, by h11. They know ASGI, but
#                  nothing of the rest
#     _guard       the checks at the door, as ASGI middleware; _security: what they decide, pure
#     _views       health, statistics and reports as JSON, pure; _page: the one page, and what a browser may do with it

from ._app import admin_app as admin_app
from ._serving import serve_admin as serve_admin
