"""Who may do what over HTTP: one table for every route, API and page. A route without a rule is no route.

`make_application` refuses to start with a route that is missing here. What needs `None` is for everybody: the
repository's files are signed, and the rest of it says nothing about the fleet.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from controller.accounts.roles import Role
from controller.http import deeds

MAX_LOGIN_BYTES: Final = 16 * 1024
"""The longest password takes 12 KiB in a form. It is read before it is known whether somebody may try again."""


class Rule(NamedTuple):
    """What one route needs.

    Attributes:
        role: the least one; None for everybody, known or not.
        action: its name in the audit log, unless the handler finds a better one in the body; None for what changes
            nothing.
        repeatable: whether its answer is kept for an Idempotency-Key; not where the answer holds a secret.
        watches: whether its answer goes on for as long as somebody watches.
        streams: whether a file comes with it, read in pieces; every other body is read whole, checked and noted.
        max_body: bytes of its body, where that is less than for others.
        parts: what one route is for: the value of its parameter `part` to the name in the audit log.
    """

    role: Role | None
    action: str | None = None
    repeatable: bool = True
    watches: bool = False
    streams: bool = False
    max_body: int | None = None
    parts: Mapping[str, str] = MappingProxyType({})
    part: str = "name"

    def action_of(self, params: Mapping[str, object]) -> str:
        """What a request with these path parameters is called in the audit log."""
        return self.parts.get(str(params.get(self.part)), self.action or "")


_READ: Final = Rule(Role.VIEWER)
_WATCH: Final = Rule(Role.VIEWER, watches=True)
_EVERYBODY: Final = Rule(None)
_LOGIN: Final = Rule(None, "login", repeatable=False, max_body=MAX_LOGIN_BYTES)

_ANNOUNCE: Final = "release.announce"
_ON_ROLLOUT: Final = {
    **{name: f"rollout.{name}" for name in deeds.TO_STATE.values()},
    deeds.APPROVE: "rollout.approve",
    deeds.RETRY_FAILED: "rollout.retry",
    deeds.CANCEL_ALL: "rollout.cancel",
}


def _needs(role: Role, action: str) -> Rule:
    return Rule(role, action)


V1: Final = "/api/v1"
_VERSION: Final = f"{V1}/packages/{{name}}/{{version}}"
_ROLLOUT: Final = f"{V1}/rollouts/{{rollout_id}}"
_DEVICE: Final = f"{V1}/devices/{{device_id}}"
_USER: Final = f"{V1}/users/{{name}}"

RULES: Final[Mapping[tuple[str, str], Rule]] = {
    # for everybody
    ("*", "/repo"): _EVERYBODY,
    ("GET", "/healthz"): _EVERYBODY,
    ("GET", "/readyz"): _EVERYBODY,
    ("GET", "/api/docs"): _EVERYBODY,
    ("GET", "/api/docs/openapi.json"): _EVERYBODY,
    ("GET", "/api/docs/{path}"): _EVERYBODY,
    ("GET", "/login"): _EVERYBODY,
    ("POST", "/login"): _LOGIN,
    ("POST", f"{V1}/session"): _LOGIN,
    # whoever is logged in
    ("GET", f"{V1}/session"): _READ,
    ("DELETE", f"{V1}/session"): Rule(Role.VIEWER, "logout", repeatable=False),
    ("PUT", f"{V1}/session/password"): Rule(Role.VIEWER, "user.password", repeatable=False),
    ("POST", "/logout"): Rule(Role.VIEWER, "logout", repeatable=False),
    # reading
    ("GET", "/metrics"): _READ,
    ("GET", f"{V1}/packages"): _READ,
    ("GET", f"{V1}/packages/{{name}}/compare"): _READ,
    ("GET", _VERSION): _READ,
    ("GET", f"{_VERSION}/bundles"): _READ,
    ("GET", f"{_VERSION}/export"): _READ,
    ("GET", f"{V1}/root"): _READ,
    ("GET", f"{V1}/statistics"): _READ,
    ("GET", f"{V1}/rollouts"): _READ,
    ("GET", _ROLLOUT): _READ,
    ("GET", f"{_ROLLOUT}/devices"): _READ,
    ("GET", f"{V1}/devices"): _READ,
    ("GET", _DEVICE): _READ,
    ("GET", f"{_DEVICE}/events"): _READ,
    ("GET", f"{_DEVICE}/commands"): _READ,
    ("GET", f"{_DEVICE}/desired"): _READ,
    ("GET", f"{V1}/fleet"): _READ,
    ("GET", f"{V1}/watch"): _WATCH,
    ("GET", f"{V1}/controller"): _READ,
    ("GET", f"{V1}/audit"): _READ,
    ("POST", f"{V1}/releases/preflight"): _READ,
    # steering rollouts and devices
    ("POST", f"{_ROLLOUT}/state"): _needs(Role.OPERATOR, "rollout.state"),
    ("POST", f"{_ROLLOUT}/approve"): _needs(Role.OPERATOR, "rollout.approve"),
    ("POST", f"{_ROLLOUT}/cancel"): _needs(Role.OPERATOR, "rollout.cancel"),
    ("POST", f"{_ROLLOUT}/retry"): _needs(Role.OPERATOR, "rollout.retry"),
    ("POST", f"{_DEVICE}/commands"): _needs(Role.OPERATOR, "device.command"),
    ("DELETE", _DEVICE): _needs(Role.OPERATOR, "device.forget"),
    ("PUT", f"{_DEVICE}/desired"): _needs(Role.OPERATOR, "device.desired"),
    # what the repository holds, and what is announced
    ("POST", f"{V1}/packages"): Rule(Role.PUBLISHER, "package.push", streams=True),
    ("DELETE", _VERSION): _needs(Role.PUBLISHER, "package.delete"),
    ("POST", f"{_VERSION}/yank"): _needs(Role.PUBLISHER, "package.yank"),
    ("POST", f"{_VERSION}/bundles"): _needs(Role.PUBLISHER, "package.bundles"),
    ("POST", f"{_VERSION}/export"): _needs(Role.PUBLISHER, "package.export"),
    ("POST", f"{V1}/packages/site"): _needs(Role.PUBLISHER, "package.export"),
    ("POST", f"{V1}/packages/import"): Rule(Role.PUBLISHER, "package.import", streams=True),
    ("POST", f"{V1}/packages/retire"): _needs(Role.PUBLISHER, "package.retire"),
    ("POST", f"{V1}/releases"): _needs(Role.PUBLISHER, _ANNOUNCE),
    ("POST", f"{V1}/releases/sets"): _needs(Role.PUBLISHER, _ANNOUNCE),
    ("DELETE", f"{V1}/channels/{{channel}}/releases/{{name}}"): _needs(Role.PUBLISHER, "release.withdraw"),
    # the page
    ("GET", "/static/{name}"): _EVERYBODY,
    ("GET", "/"): _READ,
    ("GET", "/live"): _WATCH,
    ("GET", "/devices"): _READ,
    ("GET", "/devices/{device_id}"): _READ,
    ("GET", "/devices/{device_id}/live"): _WATCH,
    ("GET", "/devices/{device_id}/do/{name}"): Rule(Role.OPERATOR),
    ("POST", "/devices/{device_id}/do/{name}"): Rule(
        Role.OPERATOR, "device.do", parts={name: f"device.{name}" for name in deeds.ON_DEVICE}
    ),
    ("GET", "/rollouts"): _READ,
    ("GET", "/rollouts/{rollout_id}"): _READ,
    ("GET", "/rollouts/{rollout_id}/live"): _WATCH,
    ("GET", "/rollouts/{rollout_id}/cell/{place}"): _READ,
    ("GET", "/rollouts/{rollout_id}/do/{name}"): Rule(Role.OPERATOR),
    ("POST", "/rollouts/{rollout_id}/do/{name}"): Rule(Role.OPERATOR, "rollout.do", parts=_ON_ROLLOUT),
    ("GET", "/packages"): _READ,
    ("GET", "/packages/{name}"): _READ,
    ("GET", "/packages/{name}/compare"): _READ,
    ("GET", "/packages/{name}/{version}"): _READ,
    ("GET", "/packages/{name}/{version}/do/{action_name}"): Rule(Role.PUBLISHER),
    ("POST", "/packages/{name}/{version}/do/{action_name}"): Rule(
        Role.PUBLISHER,
        "package.do",
        parts={name: f"package.{name}" for name in deeds.OF_VERSION} | {deeds.RELEASE: _ANNOUNCE},
        part="action_name",
    ),
    ("GET", "/audit"): _READ,
    # accounts and tokens
    ("GET", "/accounts"): Rule(Role.ADMIN),
    ("GET", f"{V1}/users"): Rule(Role.ADMIN),
    ("POST", f"{V1}/users"): _needs(Role.ADMIN, "user.add"),
    ("DELETE", _USER): _needs(Role.ADMIN, "user.remove"),
    ("PUT", f"{_USER}/password"): _needs(Role.ADMIN, "user.password"),
    ("PUT", f"{_USER}/role"): _needs(Role.ADMIN, "user.role"),
    ("GET", f"{V1}/tokens"): Rule(Role.ADMIN),
    ("POST", f"{V1}/tokens"): Rule(Role.ADMIN, "token.add", repeatable=False),
    ("DELETE", f"{V1}/tokens/{{name}}"): _needs(Role.ADMIN, "token.revoke"),
}
"""(Verb, path) to what it needs. The page's routes stand here too."""


def actions() -> list[str]:
    """Every name that a change can have in the audit log, sorted."""
    named = (rule.parts.values() if rule.parts else [rule.action] for rule in RULES.values())
    return sorted({action for some in named for action in some if action is not None})


def rule_for(method: str, template: str) -> Rule | None:
    """The rule of a route as the framework names it; None where there is none, which nobody may pass."""
    if method == "OPTIONS":
        verbs = [rule for (_, path), rule in RULES.items() if path == template]
        return _EVERYBODY if any(rule.role is None for rule in verbs) else _READ
    return RULES.get((method, template)) or RULES.get(("*", template))
