"""Who may talk to the controller: whoever has the token, or on loopback this machine and no web page."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.command import flotilla
from tests.support.controller import JSON_TYPE, PACKAGE_TYPE, ControllerProcess, controller_process
from tests.support.repository import make_package

pytestmark = pytest.mark.broker

NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
WISH = {"package": "tacho", "version": "1.0.0", "channel": "stable"}


@pytest.fixture(scope="module")
def guarded(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller that others can reach; the tests call it over loopback only."""
    data = tmp_path_factory.mktemp("guarded") / "data"
    with controller_process(data, broker.url, listen="0.0.0.0", topic_root="guarded/v1") as made:
        yield made


def api_routes(controller: ControllerProcess) -> list[tuple[str, str]]:
    """Verb and path of everything that is described, with names filled in."""
    described = controller.call("GET", "/api/docs/openapi.json").json()["paths"]
    names = {"name": "tacho", "version": "1.0.0", "rollout_id": NO_ROLLOUT, "device_id": "pi-1"}
    names["channel"] = "stable"
    return [(verb.upper(), path.format(**names)) for path, verbs in described.items() for verb in verbs]


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_route_needs_the_token_where_others_can_reach_it(guarded: ControllerProcess) -> None:
    routes = api_routes(guarded)
    assert len(routes) > 15
    assert guarded.token is not None
    wrong = ["", "Bearer", "Bearer ", f"Bearer {guarded.token}x", f"Bearer {guarded.token[:-1]}", guarded.token]
    wrong += [f"Basic {guarded.token}", "Bearer \xe4\xf6"]
    for verb, path in routes:
        if (verb, path) == ("POST", "/api/v1/session"):
            continue  # whoever logs in has nothing to show yet
        for given in wrong:
            answer = guarded.call(verb, path, b"{}", {**JSON_TYPE, "Authorization": given})
            assert "--token" in answer.problem(401, "auth.refused"), (verb, path, given)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert guarded.call(verb, path, b"{}", JSON_TYPE).status == 401, (verb, path)
    asked = [route for route in routes if route[0] == "GET" and not route[1].endswith("/watch")]
    for verb, path in asked:
        query = "?from=1.0.0&to=1.1.0" if path.endswith("/compare") else ""
        assert guarded.call(verb, path + query, headers=bearer(guarded.token)).status in {200, 404}, path


def test_with_the_token_any_name_of_the_machine_will_do(guarded: ControllerProcess) -> None:
    headers = {**bearer(guarded.token), "Host": "controller.example.com"}
    assert guarded.call("GET", "/api/v1/packages", headers=headers).status == 200


def test_what_devices_fetch_and_the_sign_of_life_need_no_token(guarded: ControllerProcess) -> None:
    assert guarded.call("GET", "/healthz").status == 200
    assert guarded.call("GET", "/repo/metadata/1.root.json").status == 200
    assert guarded.call("GET", "/repo/metadata/timestamp.json", headers={"Host": "elsewhere"}).status == 200
    assert guarded.call("GET", "/api/docs").status == 200


def test_the_token_is_its_owner_s_secret(guarded: ControllerProcess) -> None:
    path = guarded.data / "api-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guarded.token is not None
    assert len(guarded.token) >= 40
    assert guarded.token not in guarded.log_text()
    assert f"asked for a login or a token: the first token is in {path}" in guarded.log_text()


def test_the_command_line_takes_the_token_from_an_option_or_the_environment(guarded: ControllerProcess) -> None:
    token = guarded.token
    assert token is not None
    assert flotilla("packages", "--json", "--url", guarded.url, "--token", token).json() == []
    environment = {"FLOTILLA_URL": guarded.url, "FLOTILLA_TOKEN": token}
    assert flotilla("devices", "--json", env=environment).json() == []
    none = flotilla("packages", "--url", guarded.url).complaint()
    assert "--token" in none
    wrong = flotilla("packages", "--url", guarded.url, "--token", "wrong").complaint()
    assert "FLOTILLA_TOKEN" in wrong
    assert "does not know that token" in wrong
    assert flotilla("watch", "--url", guarded.url, "--json").complaint() == none
    assert flotilla("watch", "--url", guarded.url, "--json", "--token", "wrong").complaint() == wrong


def test_an_upload_without_the_token_is_refused_and_leaves_nothing(guarded: ControllerProcess, tmp_path: Path) -> None:
    package = make_package(tmp_path, "tacho", "1.0.0", {"data": "x" * 100_000})
    guarded.push(package).problem(401, "auth.refused")
    assert list((guarded.data / "spool").iterdir()) == []
    assert flotilla("packages", "--url", guarded.url, "--token", guarded.token, "--json").json() == []


# On loopback there is no token, but browsers run other people's programs there


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3"])
def test_on_loopback_this_machine_s_names_are_answered(controller: ControllerProcess, name: str) -> None:
    for host in (name, f"{name}:{controller.port}"):
        assert controller.call("GET", "/api/v1/packages", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "192.168.1.2", "0.0.0.0", "", "[", ":"]
)
def test_on_loopback_a_foreign_host_is_refused(controller: ControllerProcess, host: str) -> None:
    answer = controller.call("GET", "/api/v1/packages", headers={"Host": host})
    assert "127.0.0.1" in answer.problem(400, "input.bad")


@pytest.mark.parametrize("origin", ["http://example.com", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_on_loopback_another_site_s_page_is_refused(controller: ControllerProcess, origin: str) -> None:
    for verb, path in (("GET", "/api/v1/packages"), ("POST", "/api/v1/releases")):
        answer = controller.call(verb, path, json.dumps(WISH).encode(), {**JSON_TYPE, "Origin": origin})
        assert "other sites" in answer.problem(403, "input.bad")
    own = {"Origin": controller.url}
    assert controller.call("GET", "/api/v1/packages", headers=own).status == 200


@pytest.mark.parametrize(
    "given", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""]
)
def test_what_a_form_can_send_is_refused(controller: ControllerProcess, tmp_path: Path, given: str) -> None:
    """Browsers send these types across sites without asking the server first."""
    package = make_package(tmp_path, "form", "1.0.0", {"a": "a"}).read_bytes()
    for verb, path, body in (
        ("POST", "/packages", package),
        ("POST", "/releases", json.dumps(WISH).encode()),
        ("POST", f"/rollouts/{NO_ROLLOUT}/state", b'{"state": "halted"}'),
        ("POST", "/devices/pi-1/commands", b'{"verb": "report"}'),
        ("PUT", "/devices/pi-1/desired", b"{}"),
    ):
        answer = controller.call(verb, f"/api/v1{path}", body, {"Content-Type": given})
        assert "application/json" in answer.problem(415, "input.bad"), path
        assert ("needs it even without a body" in answer.problem(415, "input.bad")) == (not given)
    assert controller.get("/packages?name=form").json()["items"] == []


def test_a_package_is_not_taken_as_json(controller: ControllerProcess) -> None:
    detail = controller.call("POST", "/api/v1/packages", b"{}", JSON_TYPE).problem(415, "input.bad")
    assert "application/octet-stream" in detail
    assert controller.call("POST", "/api/v1/packages", b"{}", {"Content-Type": "Application/Octet-Stream; x=y"}).status
    answer = controller.call("POST", "/api/v1/packages", b"{}", PACKAGE_TYPE)
    answer.problem(422, "package.format")


def test_the_token_can_be_required_on_loopback_too(broker: Broker, tmp_path: Path, topic_root: str) -> None:
    with controller_process(
        tmp_path / "data", broker.url, topic_root=topic_root, arguments=("--require-token",)
    ) as controller:
        controller.call("GET", "/api/v1/devices").problem(401, "auth.refused")
        token = (tmp_path / "data" / "api-token").read_text().strip()
        assert controller.call("GET", "/api/v1/devices", headers=bearer(token)).status == 200
