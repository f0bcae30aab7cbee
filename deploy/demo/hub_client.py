"""The hub's REST interface, as a small standard-library client would use it."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

TIMEOUT_SECONDS = 70.0


class RestError(RuntimeError):
    """The hub answered with an error; the text has the status and the problem."""


class HubClient:
    """Talks JSON to one hub with one staff token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object | None = None) -> Any:  # noqa: ANN401 - JSON
        """Send one request and return the decoded answer (None for an empty one).

        Raises:
            RestError: for every status of 400 and above.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the URL is the demo's own hub
            self.url + path, data=data, headers=self.headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                problem = error.read().decode(errors="replace")
            raise RestError(f"{method} {path}: {error.code} {problem}") from error
        return json.loads(text) if text else None

    def get(self, path: str, **filters: object) -> Any:  # noqa: ANN401 - JSON
        """Read one resource or one page."""
        query = urllib.parse.urlencode(filters)
        return self.call("GET", f"{path}?{query}" if query else path)

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Create one object."""
        return self.call("POST", path, body)

    def patch(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Change fields of one object."""
        return self.call("PATCH", path, body)

    def all(self, path: str, **filters: object) -> Iterator[dict[str, Any]]:
        """Yield every object of a list, page by page."""
        offset = 0
        while True:
            page = self.get(path, limit=1000, offset=offset, **filters)
            yield from page["results"]
            offset += len(page["results"])
            if not page["next"] or not page["results"]:
                return

    def count(self, path: str, **filters: object) -> int:
        """Return how many objects a list has."""
        return int(self.get(path, limit=1, **filters)["count"])
