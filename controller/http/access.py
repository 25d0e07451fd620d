"""What every request goes through, API and page alike: who asks, whether they may; and changes once, and noted."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from anyio import fail_after, to_thread
from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Message, Middleware, Receive, Scope, Send

from controller.accounts.answers import MAX_ANSWER_BYTES, Answer, Answers, key_of
from controller.accounts.audit import DONE, AuditLog
from controller.accounts.roles import Who
from controller.http.bodies import (
    FORM,
    NUL_REFUSED,
    Hashed,
    form_fields,
    has_nul,
    hash_of,
    read_all,
    replayed,
    without_secrets,
)
from controller.http.guard import FILE_TYPE, SAFE, Gate
from controller.http.noting import ABOUT, DEEDS, REFUSED, UNCHANGED, WHO, address_of
from controller.http.rules import Rule, rule_for
from controller.http.watchers import Watchers
from schemas.errors import FlotillaError, OperatorError

log = logging.getLogger("flotilla.http")

MAX_WISH_BYTES: Final = 1024 * 1024
"""A request's body, but for uploads: no wish that can be announced is larger than 256 KiB."""
READ_S: Final = 60.0
"""Longest wait for the whole body of a wish."""
CLI_AGENT: Final = "flotilla-cli/"
_NOT_KEPT: Final = frozenset({b"set-cookie", b"content-length"})
_SERVER_ERROR: Final = 500

Asked = Request[Any, Any, Any]


class Access:
    """The middleware's parts, shared by all requests of one controller."""

    def __init__(self, gate: Gate, audit: AuditLog, answers: Answers, watchers: Watchers) -> None:
        self.gate = gate
        self.watchers = watchers
        self.audit = audit
        self.answers = answers
        self.running: set[str] = set()

    def middleware(self) -> Middleware:
        """For the whole application."""

        def wrap(app: ASGIApp) -> ASGIApp:
            async def serve(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["type"] == ScopeType.HTTP:
                    await self._serve(app, scope, receive, send)

            return serve

        return wrap

    async def _serve(self, app: ASGIApp, scope: HTTPScope, receive: Receive, send: Send) -> None:
        if has_nul(scope["query_string"], FORM) or "\0" in scope["path"]:
            raise OperatorError("input.bad", NUL_REFUSED)
        rule = rule_for(scope["method"], _template(scope))
        if rule is None:
            raise OperatorError("auth.denied", "no rule says who may do this")
        request: Asked = Request(scope, receive, send)
        try:
            who = await self.gate.admit(request, rule)
        except OperatorError as error:
            if error.code == "auth.denied" and rule.action is not None:
                # whoever tries is known here, so that nobody unknown can fill the log
                await self._note_denied(request, rule, error)
            raise
        scope["state"][WHO] = who
        if rule.watches:
            await self.watchers.serve(app, request, receive, send, rule, who)
        elif scope["method"] in SAFE or rule.action is None:
            await app(scope, receive, send)
        else:
            await self._change(app, request, receive, send, rule, who)

    async def _change(self, app: ASGIApp, request: Asked, receive: Receive, send: Send, rule: Rule, who: Who) -> None:
        hashed: Hashed | None = None
        body = b""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if rule.streams and content_type == FILE_TYPE:
            # too large to be kept here: hashed as it is read
            receive = hashed = Hashed(receive)
        else:
            try:
                with fail_after(READ_S):
                    body = await read_all(receive, rule.max_body or MAX_WISH_BYTES)
            except TimeoutError as error:
                raise HTTPException(f"the request was not complete within {READ_S:g} s", status_code=408) from error
            if has_nul(body, content_type):
                raise OperatorError("input.bad", NUL_REFUSED)
            if content_type == FORM:
                # what cannot be read could not be noted either, though a handler may find something in it
                form_fields(body)
            receive = replayed(body, receive)
        given = request.headers.get("idempotency-key")
        key = key_of(who, given) if given is not None and rule.repeatable else None
        noted = _Noted(self, request, send, rule, key, body if hashed is None else hashed)
        if key is None:
            await app(request.scope, receive, noted.send)
            return
        if key in self.running:
            raise OperatorError("request.running", "the first request with this Idempotency-Key is still under way")
        self.running.add(key)
        try:
            kept = await to_thread.run_sync(self.answers.find, key)
            if kept is None:
                await app(request.scope, receive, noted.send)
                return
            if hashed is not None:
                await hashed.drain()
            if kept.request != noted.asked():
                raise OperatorError("request.key", "this Idempotency-Key was used for another request; make a new one")
            await _send_again(kept, send)
        finally:
            self.running.discard(key)

    async def _note_denied(self, request: Asked, rule: Rule, error: OperatorError) -> None:
        who = await self.gate.identify(request)
        await self.note(request, rule, who, b"", status=403, result=error.code)

    async def note(self, request: Asked, rule: Rule, who: Who, body: bytes, *, status: int, result: str) -> None:
        """Write the audit log's row for a request, or one for each thing that it does."""
        agent = request.headers.get("user-agent", "")
        by_api = "cli" if agent.startswith(CLI_AGENT) else "api"
        given = request.scope["path_params"]
        params = " ".join(str(value) for name, value in given.items() if not (rule.parts and name == rule.part))
        about = request.scope["state"].get(ABOUT)
        deeds = request.scope["state"].get(DEEDS) or (rule.action_of(given),)

        def write() -> None:
            for action in deeds:
                self.audit.write(
                    who,
                    action,
                    str(about or params),
                    via=by_api if request.scope["path"].startswith("/api/") else "page",
                    address=address_of(request),
                    detail=without_secrets(body, request.headers.get("content-type", "")),
                    result=result,
                    status=status,
                )

        try:
            await to_thread.run_sync(write)
        except FlotillaError as error:
            # the change is made, and whoever asked has to hear so
            log.error("the audit log could not be written: %s %s by %s: %s", rule.action, params, who.actor, error)  # noqa: TRY400 - the line says it all


def _template(scope: HTTPScope) -> str:
    handler = scope["route_handler"]
    # of a mount the framework tells the template of the root
    return next(iter(handler.paths)) if isinstance(handler, ASGIRouteHandler) else scope["path_template"]


class _Noted:
    """Passes an answer on, after the change is in the audit log and, where asked for, the answer is kept."""

    def __init__(
        self,
        access: Access,
        request: Asked,
        send: Send,
        rule: Rule,
        key: str | None,
        body: bytes | Hashed,
    ) -> None:
        self._access = access
        self._request = request
        self._rule = rule
        self._key = key
        self._hashed = body if isinstance(body, Hashed) else None
        self._body = b"" if isinstance(body, Hashed) else body
        self._start: Message | None = None
        self._send = send

    def asked(self) -> str:
        """The hash of what was asked: verb, address and body, with the key, so that no short secret can be guessed."""
        digest = self._hashed.digest() if self._hashed is not None else hashlib.sha256(self._body).digest()
        url = self._request.scope["path"].encode() + b"?" + self._request.scope["query_string"]
        given = self._request.headers.get("idempotency-key", "").encode()
        return hash_of(self._request.method.encode(), url, digest, given)

    async def send(self, message: Message) -> None:
        """Hold the beginning back until it is known how the answer goes on."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] == "http.response.body" and self._start is not None:
            start, self._start = self._start, None
            # more to come means a stream: it is noted when it begins, and not kept
            await self._finish(start, message.get("body", b""), whole=not message.get("more_body", False))
            await self._send(start)
        await self._send(message)

    async def _finish(self, start: Any, body: bytes, *, whole: bool) -> None:
        status: int = start["status"]
        state = self._request.scope["state"]
        # a login that was malformed has named nobody; it costs nothing to send, and would fill the log
        is_known = state[WHO].kind != "nobody" or ABOUT in state
        if is_known and not state.get(UNCHANGED):
            result = DONE if status < 400 else state.get(REFUSED) or _code_in(body) or f"http.{status}"
            await self._access.note(self._request, self._rule, state[WHO], self._body, status=status, result=result)
        # what failed here may go well the next time
        worth_keeping = whole and status < _SERVER_ERROR and len(body) <= MAX_ANSWER_BYTES
        if self._key is None or not worth_keeping or (self._hashed is not None and not self._hashed.complete):
            return
        headers = [
            (k.decode("latin-1"), v.decode("latin-1")) for k, v in start["headers"] if k.lower() not in _NOT_KEPT
        ]
        answer = Answer(request=self.asked(), status=status, headers=headers, body=body)
        try:
            await to_thread.run_sync(self._access.answers.keep, self._key, answer)
        except FlotillaError as error:
            log.error("an answer could not be kept for a retry: %s", error)  # noqa: TRY400 - the line says it all


async def _send_again(kept: Answer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.headers]
    headers += [(b"content-length", str(len(kept.body)).encode()), (b"idempotency-replayed", b"true")]
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": kept.body, "more_body": False})


def _code_in(body: bytes) -> str | None:
    try:
        found = msgspec.json.decode(body, type=Mapping[str, Any]).get("code")
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, str) else None


def check_rules(app: Litestar) -> None:
    """Raise `ValueError` for a route that no rule speaks of."""
    for route in app.routes:
        methods = route.methods - {"OPTIONS"} if isinstance(route, HTTPRoute) else {"*"}
        for method in methods:
            if rule_for(method, route.path_format) is None:
                raise ValueError(
                    f"no rule says who may {method} {route.path_format}: add it to controller/http/rules.py"
                )
