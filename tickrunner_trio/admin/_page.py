"""The one page: three files of this package put together at import, and a policy that lets run nothing else.

It holds no data and no secret. What it shows it fetches, with the token that its reader gives it.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

_FILES = resources.files(f"{__package__}")


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_style, _script = _read("page.css"), _read("page.js")

#: The page, in one piece: relative addresses of more files would depend on whether a mount ends in a slash.
PAGE = _read("page.html").replace("/*style*/", _style).replace("/*script*/", _script)

#: Of scripts and styles only ours, by their hashes; connections to where it came from; no text ever becomes HTML.
POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_hash(_script)}",
        f"style-src {_hash(_style)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
