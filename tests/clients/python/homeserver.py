"""The client-server API over plain HTTP, with nothing but the standard library."""

import json
import urllib.error
import urllib.parse
import urllib.request

# A long poll of `/sync` ends before this.
PATIENCE = 90


class Refused(Exception):
    """An error answer of the homeserver."""

    def __init__(self, what, status, body):
        super().__init__(f"{what}: {status} {body.get('errcode')}: {body.get('error')}")
        self.status = status
        self.body = body


def segment(text):
    """One segment of a path."""
    return urllib.parse.quote(text, safe="")


class Homeserver:
    """A homeserver, and the access that a user has to it once there is a token."""

    def __init__(self, base):
        self.base = base
        self.token = None

    def call(self, method, path, body=None, query=None):
        """Sends a request below `/_matrix/client/v3` and returns the answer's JSON."""
        url = f"{self.base}/_matrix/client/v3/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        request = urllib.request.Request(url, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}", error.code, readable(error)) from error


def readable(error):
    """The JSON of an error answer, whatever came in its place."""
    try:
        body = json.load(error)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}
