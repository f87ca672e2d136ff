"""The internal token in front of FastAPI and Flask: refusals are one answer, to the byte."""

from __future__ import annotations

from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from stack import Stack

import holdfast.fastapi
import holdfast.flask
from holdfast._gate import FORBIDDEN_BODY, Gate, user_of

TOKEN, PREVIOUS = "hf1_current-0123456789", "hf1_previous-9876543210"
Headers = list[tuple[str, str]]
GOOD = ("X-INTERNAL-TOKEN", TOKEN)
ANN = ("X-User-ID", "ann")
REFUSED: list[Headers] = [
    [],
    [ANN],
    [("X-INTERNAL-TOKEN", ""), ANN],
    [("X-INTERNAL-TOKEN", TOKEN[:-1]), ANN],
    [("X-INTERNAL-TOKEN", TOKEN + "x"), ANN],
    [GOOD, GOOD, ANN],
    [GOOD, ("X-INTERNAL-TOKEN", PREVIOUS), ANN],
    [("Authorization", f"Bearer {TOKEN}"), ANN],
]


def fastapi_app() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/whoami")
    async def whoami(user: Annotated[str, Depends(holdfast.fastapi.acting_user)]) -> dict[str, str]:
        return {"user": user}

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    app.add_middleware(holdfast.fastapi.InternalToken, token=TOKEN, previous=PREVIOUS)
    return app


def flask_app() -> Flask:
    app = Flask("test")

    @app.get("/whoami")
    def whoami() -> dict[str, str]:
        return {"user": holdfast.flask.acting_user()}

    @app.get("/healthz")
    def healthz() -> dict[str, bool]:
        return {"ok": True}

    holdfast.flask.protect(app, token=TOKEN, previous=PREVIOUS)
    return app


async def ask_fastapi(path: str, headers: Headers, method: str = "GET") -> tuple[int, bytes, Any]:
    transport = httpx2.ASGITransport(app=fastapi_app())
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.request(method, path, headers=headers)
    return answer.status_code, answer.content, answer.headers


async def ask_flask(path: str, headers: Headers, method: str = "GET") -> tuple[int, bytes, Any]:
    answer = flask_app().test_client().open(path, method=method, headers=headers)
    return answer.status_code, answer.data, answer.headers


both = pytest.mark.parametrize("ask", [ask_fastapi, ask_flask])


@both
@pytest.mark.parametrize("headers", REFUSED)
async def test_without_a_valid_token_every_answer_is_the_same(ask: Any, headers: Headers) -> None:
    for method, path in (("GET", "/whoami"), ("GET", "/no-such-route"), ("DELETE", "/whoami")):
        status, body, told = await ask(path, headers, method)
        assert (status, body) == (403, FORBIDDEN_BODY)
        assert told["content-type"] == "application/problem+json"
        assert told["cache-control"] == "no-store"


@both
async def test_behind_the_token_the_user_is_believed(ask: Any) -> None:
    for token in (TOKEN, PREVIOUS):
        status, body, _ = await ask("/whoami", [("X-INTERNAL-TOKEN", token), ANN])
        assert (status, b'"ann"' in body) == (200, True)
    assert (await ask("/no-such-route", [GOOD]))[0] == 404


@both
@pytest.mark.parametrize(
    "users", [[], [("X-User-ID", "")], [ANN, ("X-User-ID", "bob")], [("X-User-ID", "a\tb")]]
)
async def test_a_user_must_be_named_once_in_printable_ascii(ask: Any, users: Headers) -> None:
    status, body, _ = await ask("/whoami", [GOOD, *users])
    assert status == 403
    assert b"X-User-ID" in body


@both
async def test_an_open_path_needs_no_token_and_names_no_user(ask: Any) -> None:
    assert (await ask("/healthz", []))[0] == 200
    assert (await ask("/healthz/", []))[:2] == (403, FORBIDDEN_BODY)


async def test_a_refusal_is_that_of_the_ledger(stack: Stack) -> None:
    async with httpx2.AsyncClient(base_url=stack.http) as http:
        answer = await http.get("/balance/ann")
    assert (answer.status_code, answer.content) == (403, FORBIDDEN_BODY)


async def test_a_websocket_without_a_token_is_closed() -> None:
    sent: list[dict[str, Any]] = []
    app = holdfast.fastapi.InternalToken(fastapi_app(), token=TOKEN)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/ws", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_gate_takes_exactly_one_accepted_token() -> None:
    gate = Gate(TOKEN + "\n", PREVIOUS)
    assert gate.accepts([TOKEN.encode()])
    assert not gate.accepts([])
    assert not gate.accepts([TOKEN.encode()] * 2)
    with pytest.raises(ValueError, match="empty"):
        Gate(TOKEN, " ")


@pytest.mark.parametrize(
    ("given", "user"),
    [
        ([b"ann"], "ann"),
        ([b"ann b"], "ann b"),
        ([], None),
        ([b""], None),
        ([b"a", b"a"], None),
        ([b"\xfc"], None),
    ],
)
def test_whose_request_it_is(given: list[bytes], user: str | None) -> None:
    assert user_of(given) == user
