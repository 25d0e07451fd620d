"""Makes the API's description say the truth where the framework cannot know it."""

import copy
from typing import Any, Final

from controller.http.guard import COOKIE
from controller.http.problems import MEDIA_TYPE
from controller.http.rules import rule_for

_PROBLEM: Final = {"type": "string", "title": "string", "status": "integer", "detail": "string", "code": "string"}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any text that is new for each change: sent again with the same key and body within a day, the same "
    "answer comes and nothing is done twice; with another body the answer is 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_SCHEMES: Final = {
    "token": {"type": "http", "scheme": "bearer", "description": "A machine's token: `flotilla token add`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A person's session: POST /api/v1/session. What changes something must come from a page of this "
        "server, by Origin or Sec-Fetch-Site.",
    },
}

_FILE: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ANSWERS: Final = {
    ("GET", "/api/v1/root"): {"application/json": {"schema": {"type": "object", "description": "TUF root metadata"}}},
    ("GET", "/api/v1/packages/{name}/{version}/export"): _FILE,
    ("POST", "/api/v1/packages/{name}/{version}/export"): _FILE,
    ("POST", "/api/v1/packages/site"): _FILE,
    ("GET", "/api/v1/watch"): {"text/event-stream": {"schema": {"type": "string"}}},
}
"""What is answered with 200 where a handler's type does not tell it."""


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of the framework's description with errors as they are answered (RFC 9457), roles, and retries."""
    made = copy.deepcopy(schema)
    components = made.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = {
        "type": "object",
        "description": "`detail` is one line for a person, `code` is for programs; `title` is the status in words.",
        "properties": {name: {"type": kind} for name, kind in _PROBLEM.items()},
        "required": list(_PROBLEM),
    }
    components["securitySchemes"] = _SCHEMES
    answer = {
        "description": "Any error",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path, verbs in made["paths"].items():
        for verb, operation in verbs.items():
            operation["responses"].pop("400", None)
            operation["responses"]["default"] = answer
            # the framework describes the nothing of a 204 as JSON
            operation["responses"].get("204", {}).pop("content", None)
            if (verb.upper(), path) in _ANSWERS:
                operation["responses"]["200"]["content"] = _ANSWERS[verb.upper(), path]
            _say_who_may(operation, verb.upper(), path)
    return made


def _say_who_may(operation: dict[str, Any], verb: str, path: str) -> None:
    rule = rule_for(verb, path)
    if rule is None or rule.role is None:
        operation["security"] = []
    else:
        operation["security"] = [{name: []} for name in _SCHEMES]
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role {rule.role}.".strip()
    if rule is not None and rule.action is not None and rule.repeatable:
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
