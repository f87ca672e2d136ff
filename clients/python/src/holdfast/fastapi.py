"""The internal token in front of a FastAPI (or any ASGI) application.

```python
app.add_middleware(InternalToken, token=token, previous=previous)

@app.post("/ask")
async def ask(user: Annotated[str, Depends(acting_user)]) -> …: …
```
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ._gate import (
    FORBIDDEN_BODY,
    FORBIDDEN_HEADERS,
    FORBIDDEN_STATUS,
    TOKEN_HEADER,
    USER_HEADER,
    Gate,
    user_of,
)

STATE = "holdfast_user"
POLICY_VIOLATION = 1008


class InternalToken:
    """ASGI middleware: refuses every request without a valid `X-INTERNAL-TOKEN`, all with the same bytes.

    Only behind the token is `X-User-ID` read. `open_paths` need no token, and name no user.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        previous: str | None = None,
        open_paths: Collection[str] = ("/healthz",),
    ) -> None:
        self._app = app
        self._gate = Gate(token, previous)
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request with a valid token, or to an open path, through."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})[STATE] = None
        if scope["path"] not in self._open:
            if not self._gate.accepts(_values(scope, TOKEN_HEADER)):
                await _refuse(scope, receive, send)
                return
            scope["state"][STATE] = user_of(_values(scope, USER_HEADER))
        await self._app(scope, receive, send)


def acting_user(connection: HTTPConnection) -> str:
    """A dependency: the user that the request is for. 403 when it names none, or more than one."""
    user = getattr(connection.state, STATE, None)
    if not isinstance(user, str):
        raise HTTPException(FORBIDDEN_STATUS, "X-User-ID is needed")
    return user


def _values(scope: Scope, name: str) -> list[bytes]:
    wanted = name.lower().encode()
    return [value for header, value in scope["headers"] if header.lower() == wanted]


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    await Response(FORBIDDEN_BODY, FORBIDDEN_STATUS, FORBIDDEN_HEADERS)(scope, receive, send)
