"""The internal token in front of a Flask application.

```python
protect(app, token=token, previous=previous)

@app.post("/ask")
def ask(): user = acting_user()
```
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from flask import Flask, abort, request

from ._gate import (
    FORBIDDEN_BODY,
    FORBIDDEN_HEADERS,
    FORBIDDEN_STATUS,
    TOKEN_HEADER,
    USER_HEADER,
    Gate,
    user_of,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

STATE = "holdfast.user"


class InternalToken:
    """WSGI middleware: refuses every request without a valid `X-INTERNAL-TOKEN`, all with the same bytes.

    Only behind the token is `X-User-ID` read. A header that comes twice reaches WSGI as one with a
    comma, which is no accepted token, and no user's name either.
    """

    def __init__(
        self, app: WSGIApplication, token: str, previous: str | None, open_paths: Collection[str]
    ) -> None:
        self._app = app
        self._gate = Gate(token, previous)
        self._open = frozenset(open_paths)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Lets a request with a valid token, or to an open path, through."""
        environ[STATE] = None
        if environ.get("PATH_INFO", "") not in self._open:
            if not self._gate.accepts(_values(environ, TOKEN_HEADER)):
                length = {"content-length": str(len(FORBIDDEN_BODY))}
                start_response("403 Forbidden", list({**FORBIDDEN_HEADERS, **length}.items()))
                return [FORBIDDEN_BODY]
            environ[STATE] = user_of(value for value in _values(environ, USER_HEADER) if b"," not in value)
        return self._app(environ, start_response)


def protect(
    app: Flask, *, token: str, previous: str | None = None, open_paths: Collection[str] = ("/healthz",)
) -> None:
    """Puts the token before all of `app`; `open_paths` need none, and name no user."""
    app.wsgi_app = InternalToken(app.wsgi_app, token, previous, open_paths)  # type: ignore[method-assign]


def acting_user() -> str:
    """The user that the request is for. 403 when it names none, or more than one."""
    user = request.environ.get(STATE)
    if not isinstance(user, str):
        abort(FORBIDDEN_STATUS, "X-User-ID is needed")
    return user


def _values(environ: WSGIEnvironment, name: str) -> list[bytes]:
    value = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return [] if value is None else [value.encode("latin-1")]
