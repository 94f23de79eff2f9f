"""The web page: one static file, sent with a policy that lets it load nothing from elsewhere and run nothing but its own script."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi.responses import Response

FILE = Path(__file__).with_name("page.html")


class Page:
    """page.html and its Content-Security-Policy, made from hashes of its own script and style."""

    def __init__(self) -> None:
        self._text = FILE.read_text(encoding="utf-8")
        self._headers = {
            "Content-Security-Policy": "; ".join(
                (
                    "default-src 'none'",
                    "connect-src 'self'",
                    f"script-src {self._hash('script')}",
                    f"style-src {self._hash('style')}",
                    "img-src data:",
                    "base-uri 'none'",
                    "form-action 'none'",
                    "frame-ancestors 'none'",
                )
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    def response(self) -> Response:
        return Response(self._text, media_type="text/html; charset=utf-8", headers=self._headers)

    def _hash(self, tag: str) -> str:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", self._text, re.DOTALL).group(1)
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
