"""Who may do what: every route, asked by every role. A new route without a line here fails."""

from collections.abc import Iterator

import pytest
from litestar import get
from litestar.routes import HTTPRoute

from controller.accounts.roles import Role
from controller.http.access import check_rules
from tests.support.in_process import JSON, Application, application

EVERYBODY = None
NEEDED = {
    "GET /healthz": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /metrics": Role.VIEWER,
    "GET /login": EVERYBODY,
    "POST /login": EVERYBODY,
    "GET /api/docs": EVERYBODY,
    "GET /api/docs/openapi.json": EVERYBODY,
    "GET /api/docs/{path}": EVERYBODY,
    "POST /api/v1/session": EVERYBODY,
    "GET /api/v1/session": Role.VIEWER,
    "DELETE /api/v1/session": Role.VIEWER,
    "PUT /api/v1/session/password": Role.VIEWER,
    "POST /logout": Role.VIEWER,
    "GET /api/v1/audit": Role.VIEWER,
    "GET /api/v1/controller": Role.VIEWER,
    "GET /api/v1/devices": Role.VIEWER,
    "GET /api/v1/devices/{device_id}": Role.VIEWER,
    "GET /api/v1/devices/{device_id}/commands": Role.VIEWER,
    "GET /api/v1/devices/{device_id}/desired": Role.VIEWER,
    "GET /api/v1/devices/{device_id}/events": Role.VIEWER,
    "GET /api/v1/fleet": Role.VIEWER,
    "GET /api/v1/packages": Role.VIEWER,
    "GET /api/v1/packages/{name}/compare": Role.VIEWER,
    "GET /api/v1/packages/{name}/{version}": Role.VIEWER,
    "GET /api/v1/packages/{name}/{version}/bundles": Role.VIEWER,
    "GET /api/v1/packages/{name}/{version}/export": Role.VIEWER,
    "GET /api/v1/rollouts": Role.VIEWER,
    "GET /api/v1/rollouts/{rollout_id}": Role.VIEWER,
    "GET /api/v1/rollouts/{rollout_id}/devices": Role.VIEWER,
    "GET /api/v1/root": Role.VIEWER,
    "GET /api/v1/statistics": Role.VIEWER,
    "GET /api/v1/watch": Role.VIEWER,
    "POST /api/v1/releases/preflight": Role.VIEWER,
    "POST /api/v1/devices/{device_id}/commands": Role.OPERATOR,
    "PUT /api/v1/devices/{device_id}/desired": Role.OPERATOR,
    "DELETE /api/v1/devices/{device_id}": Role.OPERATOR,
    "POST /api/v1/rollouts/{rollout_id}/state": Role.OPERATOR,
    "POST /api/v1/rollouts/{rollout_id}/approve": Role.OPERATOR,
    "POST /api/v1/rollouts/{rollout_id}/cancel": Role.OPERATOR,
    "POST /api/v1/rollouts/{rollout_id}/retry": Role.OPERATOR,
    "DELETE /api/v1/channels/{channel}/releases/{name}": Role.PUBLISHER,
    "DELETE /api/v1/packages/{name}/{version}": Role.PUBLISHER,
    "POST /api/v1/packages": Role.PUBLISHER,
    "POST /api/v1/packages/import": Role.PUBLISHER,
    "POST /api/v1/packages/retire": Role.PUBLISHER,
    "POST /api/v1/packages/site": Role.PUBLISHER,
    "POST /api/v1/packages/{name}/{version}/bundles": Role.PUBLISHER,
    "POST /api/v1/packages/{name}/{version}/export": Role.PUBLISHER,
    "POST /api/v1/packages/{name}/{version}/yank": Role.PUBLISHER,
    "POST /api/v1/releases": Role.PUBLISHER,
    "POST /api/v1/releases/sets": Role.PUBLISHER,
    "GET /static/{name}": EVERYBODY,
    "GET /": Role.VIEWER,
    "GET /live": Role.VIEWER,
    "GET /devices": Role.VIEWER,
    "GET /devices/{device_id}": Role.VIEWER,
    "GET /devices/{device_id}/live": Role.VIEWER,
    "GET /devices/{device_id}/do/{name}": Role.OPERATOR,
    "POST /devices/{device_id}/do/{name}": Role.OPERATOR,
    "GET /rollouts": Role.VIEWER,
    "GET /rollouts/{rollout_id}": Role.VIEWER,
    "GET /rollouts/{rollout_id}/live": Role.VIEWER,
    "GET /rollouts/{rollout_id}/cell/{place}": Role.VIEWER,
    "GET /rollouts/{rollout_id}/do/{name}": Role.OPERATOR,
    "POST /rollouts/{rollout_id}/do/{name}": Role.OPERATOR,
    "GET /audit": Role.VIEWER,
    "GET /packages": Role.VIEWER,
    "GET /packages/{name}": Role.VIEWER,
    "GET /packages/{name}/compare": Role.VIEWER,
    "GET /packages/{name}/{version}": Role.VIEWER,
    "GET /packages/{name}/{version}/do/{action_name}": Role.PUBLISHER,
    "POST /packages/{name}/{version}/do/{action_name}": Role.PUBLISHER,
    "GET /accounts": Role.ADMIN,
    "GET /api/v1/tokens": Role.ADMIN,
    "POST /api/v1/tokens": Role.ADMIN,
    "DELETE /api/v1/tokens/{name}": Role.ADMIN,
    "GET /api/v1/users": Role.ADMIN,
    "POST /api/v1/users": Role.ADMIN,
    "DELETE /api/v1/users/{name}": Role.ADMIN,
    "PUT /api/v1/users/{name}/password": Role.ADMIN,
    "PUT /api/v1/users/{name}/role": Role.ADMIN,
}
STREAMS = {"GET /api/v1/watch", "GET /live"}  # never ends, so it is asked only by those who may not


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("roles")) as made:
        yield made


@pytest.fixture(scope="module")
def by_role(app: Application) -> dict[Role, dict[str, str]]:
    return {role: app.token(role) for role in Role}


def routes_of(app: Application) -> set[str]:
    return {
        f"{method} {route.path_format}"
        for route in app.litestar.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}
    }


def test_every_route_has_its_line(app: Application) -> None:
    assert routes_of(app) == set(NEEDED)


@pytest.mark.parametrize("route", sorted(NEEDED))
def test_a_role_may_do_what_it_may_and_no_more(
    app: Application, by_role: dict[Role, dict[str, str]], route: str
) -> None:
    method, path = route.split()
    needed = NEEDED[route]
    origin = {"Origin": "http://fleet.example:8420"}
    names = {"name": "nothing", "version": "1.0.0", "channel": "none", "device_id": "nobody", "rollout_id": "none"}
    filled = path.format(**names, path="x", place=0, action_name="yank")

    def ask(headers: dict[str, str]) -> int:
        return app.client.request(
            method, filled, content=b"{", headers={**JSON, **origin, **headers}, follow_redirects=False
        ).status_code

    if needed is EVERYBODY:
        # a form that is none is refused, and so is a body that is none, but not whoever sends it
        assert ask({}) in {200, 400, 404, 415, 503}
        return
    assert ask({}) == 401
    for role, headers in by_role.items():
        if not role.includes(needed):
            assert ask(headers) == 403, role
        elif route not in STREAMS:
            assert ask(headers) not in {401, 403}, role


def test_a_route_that_no_rule_speaks_of_keeps_the_controller_from_starting(app: Application) -> None:
    @get("/unheard-of")
    async def unheard_of() -> None:
        """Nobody said who may."""

    app.litestar.register(unheard_of)
    with pytest.raises(ValueError, match="GET /unheard-of"):
        check_rules(app.litestar)
    # and where it is asked nevertheless, it is refused
    assert app.client.get("/unheard-of").status_code == 403
