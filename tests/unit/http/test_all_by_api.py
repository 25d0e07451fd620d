"""Whatever the page and the command line do, the API does: a line for each of them, and why for what is none of its.

A new page, button or command without a line here fails. Commands are run, and seen asking for just these routes.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import urllib3
from litestar.routes import HTTPRoute

from controller.cli.main import COMMANDS
from controller.cli.main import flotilla as program
from controller.client import PREFIX, ControllerClient, _problem
from controller.database import utc_now
from controller.fleet.intake_store import IntakeStore
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from controller.web.actions import MOVE_ACTIONS, OF_VERSION, ON_DEVICE, ON_ROLLOUT
from tests.support.command import flotilla
from tests.support.in_process import FILE_TOKEN, HOST, PASSWORD, Application, application
from tests.support.packages import make_source
from tests.support.repository import add_release, make_package
from tests.unit.fleet.builders import presence_in, reported_in

DEVICE, ROLLOUT, VERSION = "devices/{device_id}", "rollouts/{rollout_id}", "packages/{name}/{version}"

PAGES: dict[str, set[str] | str] = {
    "GET /": {"GET fleet", "GET rollouts"},
    "GET /live": {"GET watch"},
    "GET /devices": {"GET devices", "GET fleet"},
    "GET /devices/{device_id}": {
        f"GET {DEVICE}",
        f"GET {DEVICE}/events",
        f"GET {DEVICE}/commands",
        f"GET {DEVICE}/desired",
    },
    "GET /devices/{device_id}/live": {"GET watch"},
    "GET /devices/{device_id}/do/{name}": {f"GET {DEVICE}", f"GET {DEVICE}/desired"},
    "POST /devices/{device_id}/do/pin": {f"PUT {DEVICE}/desired"},
    "POST /devices/{device_id}/do/unpin": {f"PUT {DEVICE}/desired"},
    "POST /devices/{device_id}/do/hold": {f"PUT {DEVICE}/desired"},
    "POST /devices/{device_id}/do/unhold": {f"PUT {DEVICE}/desired"},
    "POST /devices/{device_id}/do/report": {f"POST {DEVICE}/commands"},
    "POST /devices/{device_id}/do/check": {f"POST {DEVICE}/commands"},
    "POST /devices/{device_id}/do/retry": {f"POST {DEVICE}/commands"},
    "POST /devices/{device_id}/do/cancel": {f"POST {DEVICE}/commands"},
    "POST /devices/{device_id}/do/rollback": {f"POST {DEVICE}/commands"},
    "POST /devices/{device_id}/do/forget": {f"DELETE {DEVICE}"},
    "GET /rollouts": {"GET rollouts"},
    "GET /rollouts/{rollout_id}": {f"GET {ROLLOUT}", f"GET {ROLLOUT}/devices"},
    "GET /rollouts/{rollout_id}/live": {"GET watch"},
    "GET /rollouts/{rollout_id}/cell/{place}": {f"GET {ROLLOUT}/devices"},
    "GET /rollouts/{rollout_id}/do/{name}": {f"GET {ROLLOUT}"},
    "POST /rollouts/{rollout_id}/do/pause": {f"POST {ROLLOUT}/state"},
    "POST /rollouts/{rollout_id}/do/resume": {f"POST {ROLLOUT}/state"},
    "POST /rollouts/{rollout_id}/do/halt": {f"POST {ROLLOUT}/state"},
    "POST /rollouts/{rollout_id}/do/revert": {f"POST {ROLLOUT}/state"},
    "POST /rollouts/{rollout_id}/do/approve": {f"POST {ROLLOUT}/approve"},
    "POST /rollouts/{rollout_id}/do/retry-failed": {f"POST {ROLLOUT}/retry"},
    "POST /rollouts/{rollout_id}/do/cancel-all": {f"POST {ROLLOUT}/cancel"},
    "GET /packages": {"GET packages"},
    "GET /packages/{name}": {"GET packages", "GET rollouts"},
    "GET /packages/{name}/compare": {"GET packages/{name}/compare"},
    "GET /packages/{name}/{version}": {f"GET {VERSION}", f"GET {VERSION}/bundles", "GET rollouts"},
    "GET /packages/{name}/{version}/do/{action_name}": {"POST releases/preflight", "GET rollouts"},
    "POST /packages/{name}/{version}/do/release": {"POST releases"},
    "POST /packages/{name}/{version}/do/yank": {f"POST {VERSION}/yank"},
    "POST /packages/{name}/{version}/do/unyank": {f"POST {VERSION}/yank"},
    "GET /audit": {"GET audit"},
    "GET /accounts": {"GET users", "GET tokens"},
    "POST /login": {"POST session"},
    "POST /logout": {"DELETE session"},
    "GET /login": "a form to fill in",
    "GET /static/{name}": "what the page is drawn with",
    "GET /metrics": "for programs as it is",
    "GET /healthz": "for programs as it is",
    "GET /readyz": "for programs as it is",
}
"""Page or button: what does the same, below `/api/v1`; or why nothing has to."""

BY_CLIENTS: dict[str, str] = {
    "GET /": "who needs attention is counted from the devices' `last_seen` and the failures of rollouts",
    "GET /devices": "devices by a part of their id, by what they run or by trouble are picked out of the list",
    "GET /rollouts/{rollout_id}": "the time line is counted from when the devices ended",
}
"""What a page works out, and a client of the API has to from what it gets; said in docs/guides/operators.md."""

NAMED_FOR: Mapping[str, list[str]] = {
    "POST /devices/{device_id}/do/{name}": [one.name for one in ON_DEVICE],
    "POST /rollouts/{rollout_id}/do/{name}": [one.name for one in (*MOVE_ACTIONS, *ON_ROLLOUT)],
    "POST /packages/{name}/{version}/do/{action_name}": [one.name for one in OF_VERSION],
}
"""One route for several buttons."""

COMMAND_LINE: dict[str, tuple[list[str], set[str]]] = {
    "push": (["PACKAGE"], {"POST packages"}),
    "release": (
        [
            "tacho 1.0.0 --channel beta",
            "tacho 1.0.0 --channel beta --dry-run",
            "tacho@1.0.0 cam@1.0.0 --set --channel two",
        ],
        {"POST releases", "POST releases/preflight", "POST releases/sets"},
    ),
    "publish": (["SOURCE --channel beta"], {"POST packages", "POST releases"}),
    "packages": (["tacho"], {"GET packages"}),
    "bundles": (["tacho 1.0.0", "tacho 1.0.0 --again"], {f"GET {VERSION}/bundles", f"POST {VERSION}/bundles"}),
    "export": (
        ["tacho 1.0.0 --out A", "tacho 1.0.0 --out B --valid-days 30", "--for-site tacho --out C"],
        {f"GET {VERSION}/export", f"POST {VERSION}/export", "POST packages/site"},
    ),
    "import": (["PACKAGE --root PACKAGE"], {"POST packages/import"}),
    "root": (["--out D"], {"GET root"}),
    "yank": (["tacho 0.9.0"], {f"POST {VERSION}/yank"}),
    "delete": (["tacho 0.8.0"], {f"DELETE {VERSION}"}),
    "devices": ([""], {"GET devices"}),
    "device": (["pi-1"], {f"GET {DEVICE}", f"GET {DEVICE}/events", f"GET {DEVICE}/desired"}),
    "rollouts": ([""], {"GET rollouts"}),
    "rollout": (["ROLLOUT"], {f"GET {ROLLOUT}"}),
    "audit": ([""], {"GET audit"}),
    "watch": (["--json"], {"GET watch"}),
    "top": ([""], {"GET rollouts", "GET watch"}),
    "pause": (["ROLLOUT"], {f"GET {ROLLOUT}", f"POST {ROLLOUT}/state"}),
    "resume": (["HALTED"], {f"GET {ROLLOUT}", f"POST {ROLLOUT}/state"}),
    "approve": (["ROLLOUT"], {f"POST {ROLLOUT}/approve"}),
    "halt": (["ROLLOUT"], {f"GET {ROLLOUT}", f"POST {ROLLOUT}/state"}),
    "cancel": (["ROLLOUT"], {f"GET {ROLLOUT}", f"POST {ROLLOUT}/cancel"}),
    "retry": (["ROLLOUT"], {f"POST {ROLLOUT}/retry"}),
    "revert": (["ROLLOUT --yes"], {f"GET {ROLLOUT}", f"POST {ROLLOUT}/state"}),
    "withdraw": (["tacho --channel stable"], {"DELETE channels/{channel}/releases/{name}"}),
    "ask": (["pi-1 report"], {f"POST {DEVICE}/commands"}),
    "tell": (["pi-1 --hold"], {f"GET {DEVICE}/desired", f"PUT {DEVICE}/desired"}),
    "forget": (["pi-9 --yes"], {f"GET {DEVICE}", f"DELETE {DEVICE}"}),
    "user add": (["anna --role viewer"], {"POST users"}),
    "user list": ([""], {"GET users"}),
    "user passwd": (["anna"], {"PUT users/{name}/password"}),
    "user role": (["anna operator"], {"GET users", "PUT users/{name}/role"}),
    "user remove": (["anna"], {"GET users", "DELETE users/{name}"}),
    "token add": (["ci --role viewer"], {"POST tokens"}),
    "token list": ([""], {"GET tokens"}),
    "token revoke": (["ci"], {"DELETE tokens/{name}"}),
    "gc": ([""], {"POST packages/retire"}),
}
"""Command to ways to call it, and all that these ask of a controller, besides whether its broker is there."""

LOCAL: dict[str, str] = {
    "build": "works on a folder of its user's, with no controller",
    "inspect": "reads a file of its user's, with no controller",
    "serve": "is the controller",
    "repository collect": "works on the data folder; a controller does it by itself",
    "repository statistics": "works on the data folder; the API has it at GET statistics",
    "repository upload": "works on the data folder and the place where the repository is kept",
    "repository verify": "works on the data folder, with or without a controller",
    "notify test": "tries a file on the controller's machine before it is served with",
    "simulate": "is devices, and speaks to the broker",
    "demo": "starts a controller of its own",
}
"""Commands that ask no controller, and why the API does not do the same."""

BESIDE = "GET controller"
LIVE = {"FORCE_COLOR": "1", "COLUMNS": "200", "TERM": "xterm"}


def expanded(route: str) -> list[str]:
    return [re.sub(r"\{\w+\}$", name, route) for name in NAMED_FOR[route]] if route in NAMED_FOR else [route]


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command, or those of a group."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for below, found in command.commands.items():
        yield from leaves(found, f"{name} {below}")


def every_command() -> dict[str, click.Command]:
    context = click.Context(program)
    found = {name: program.get_command(context, name) for name in COMMANDS}
    return {name: leaf for top, command in found.items() if command for name, leaf in leaves(command, top)}


class Asked:
    """The application behind the command line's client, without a port; keeps which routes were asked."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.routes: set[str] = set()
        self.templates = sorted(api_routes(app), key=lambda route: route.count("{"))

    def request(
        self, method: str, path: tuple[str, ...], *, body: Any = None, query: Any = None, headers: Any = None, **_: Any
    ) -> urllib3.BaseHTTPResponse:
        wanted = f"{method} {'/'.join(path)}"
        self.routes.add(next(one for one in self.templates if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one), wanted)))
        if path == ("watch",):
            # it never ends, so that this one has at once
            return urllib3.HTTPResponse(
                io.BytesIO(), headers={"Content-Type": "text/event-stream"}, status=200, preload_content=False
            )
        answer = self.app.client.request(
            method,
            "/".join((PREFIX, *path)),
            content=body if isinstance(body, bytes | None) else body.read(),
            params={key: value for key, value in (query or {}).items() if value is not None},
            headers={"Authorization": f"Bearer {FILE_TOKEN}", **(headers or {})},
        )
        made = urllib3.HTTPResponse(
            io.BytesIO(answer.content), headers=dict(answer.headers), status=answer.status_code, preload_content=False
        )
        if answer.status_code >= 300:
            raise _problem(PREFIX, made)
        return made


def web_routes(app: Application) -> set[str]:
    return {route for route in routes(app) if not route.split()[1].startswith("/api/")}


def api_routes(app: Application) -> set[str]:
    return {route.replace(f"{PREFIX}/", "") for route in routes(app) if route.split()[1].startswith(f"{PREFIX}/")}


def routes(app: Application) -> set[str]:
    return {
        f"{method} {route.path_format}"
        for route in app.litestar.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}
    }


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("all")) as made:
        for version in ("0.8.0", "0.9.0", "1.0.0"):
            add_release(made.repository, "tacho", version, {"a": version})
        add_release(made.repository, "cam", "1.0.0", {"a": "a"})
        now = utc_now()
        IntakeStore(made.engine).take_in([presence_in("pi-1"), reported_in("pi-1", at=now), reported_in("pi-9")], now)
        yield made


def test_every_page_and_every_button_has_its_line(app: Application) -> None:
    assert {line for route in web_routes(app) for line in expanded(route)} == set(PAGES)
    assert set(BY_CLIENTS) < set(PAGES)


def test_every_command_has_its_line() -> None:
    """One that takes `--url` asks a controller; any other has a reason for not doing so."""
    found = every_command()
    asking = {name for name, command in found.items() if any(option.name == "url" for option in command.params)}
    assert asking == set(COMMAND_LINE)
    assert set(found) - asking == set(LOCAL)


def test_what_the_lines_name_are_routes_of_the_api_and_described(app: Application) -> None:
    described = app.client.get("/api/docs/openapi.json").json()["paths"]
    there = {f"{verb.upper()} {path.removeprefix(f'{PREFIX}/')}" for path, verbs in described.items() for verb in verbs}
    named = [line for line in PAGES.values() if isinstance(line, set)] + [line for _, line in COMMAND_LINE.values()]
    assert set().union(*named) - there == set()


@pytest.mark.parametrize("command", COMMAND_LINE)
def test_a_command_asks_for_what_its_line_says(
    app: Application, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(app)
    monkeypatch.setattr(ControllerClient, "_request", lambda _self, *given, **more: asked.request(*given, **more))
    monkeypatch.setattr("controller.cli.following.PATIENCE_S", 0.0)
    monkeypatch.chdir(tmp_path)
    store = RolloutStore(app.engine)
    rollout = store.create(package="tacho", version="1.0.0", channel="stable", repository=["http://r"]).id
    source = make_source(tmp_path / "source", "new", "1.0.0")
    words = {"PACKAGE": make_package(tmp_path, "fresh", "1.0.0", {"a": "a"}), "SOURCE": source, "ROLLOUT": rollout}
    ways, said = COMMAND_LINE[command]
    for way in ways:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
        if "HALTED" in way:
            store.set_state(rollout, RolloutState.HALTED)
        arguments = [str({**words, "HALTED": rollout}.get(word, word)) for word in way.split()]
        done = flotilla(*command.split(), *arguments, "--url", f"http://{HOST}", env=LIVE if command == "top" else {})
        assert asked.routes, done
    assert asked.routes - {BESIDE} == said
