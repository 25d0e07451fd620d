"""Accounts and tokens from the command line, at a controller and on its data folder, and answers that get lost."""

import contextlib
import io
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.command import Finished, flotilla
from tests.support.controller import JSON_TYPE, ControllerProcess, controller_process
from tests.support.repository import make_package

pytestmark = pytest.mark.broker

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def guarded(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller that others can reach; the tests call it over loopback only."""
    data = tmp_path_factory.mktemp("accounts") / "data"
    with controller_process(data, broker.url, listen="0.0.0.0", topic_root="accounts/v1") as made:
        yield made


def run(
    controller: ControllerProcess, *arguments: object, stdin: str = "", url: str | None = None, token: str | None = None
) -> Finished:
    """A command at the controller, with the token of its data folder unless told otherwise."""
    environment = {"FLOTILLA_URL": url or controller.url, "FLOTILLA_TOKEN": token or controller.token or ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        return flotilla(*arguments, env=environment)


def log_in(controller: ControllerProcess, name: str, password: str) -> int:
    body = f'{{"name": "{name}", "password": "{password}"}}'.encode()
    return controller.call("POST", "/api/v1/session", body, JSON_TYPE).status


def test_a_person_s_account_from_its_beginning_to_its_end(guarded: ControllerProcess) -> None:
    made = run(guarded, "user", "add", "anna", "--role", "operator", "--json", stdin=f"{PASSWORD}\n").json()
    assert (made["name"], made["role"]) == ("anna", "operator")
    assert log_in(guarded, "anna", PASSWORD) == 200
    assert "12 to 1024" in run(guarded, "user", "passwd", "anna", stdin="short\n").complaint()
    assert run(guarded, "user", "passwd", "anna", stdin="another horse battery\n").status == 0
    assert log_in(guarded, "anna", PASSWORD) == 401
    assert log_in(guarded, "anna", "another horse battery") == 200
    assert run(guarded, "user", "role", "anna", "viewer").status == 0
    (listed,) = run(guarded, "user", "list", "--json").json()
    assert (listed["name"], listed["role"], listed["sessions"]) == ("anna", "viewer", 0)
    assert run(guarded, "user", "remove", "anna").status == 0
    assert "no account anna" in run(guarded, "user", "remove", "anna").complaint()
    assert log_in(guarded, "anna", "another horse battery") == 401
    rows = run(guarded, "audit", "--json").json()
    mine = [
        (row["action"], row["via"], row["actor"]) for row in rows if row["target"] == "anna" and row["via"] == "cli"
    ]
    assert ("user.add", "cli", "token:api-token") in mine
    assert ("user.remove", "cli", "token:api-token") in mine
    assert "horse battery" not in str(rows)


def test_no_password_can_be_given_as_an_argument(guarded: ControllerProcess) -> None:
    for arguments in (("user", "add", "eve", PASSWORD), ("user", "passwd", "eve", "--password", PASSWORD)):
        assert run(guarded, *arguments, "--role", "viewer").status == 2
    for command in ("add", "passwd"):
        assert "--password" not in run(guarded, "user", command, "--help").text


def test_a_token_from_its_beginning_to_its_end(guarded: ControllerProcess) -> None:
    made = run(guarded, "token", "add", "steers", "--role", "operator")
    assert "token steers may do what the role operator may, " in made.stderr
    assert run(guarded, "token", "revoke", "steers").status == 0
    made = run(guarded, "token", "add", "ci", "--role", "viewer", "--expires", "30", "--json").json()
    token = made["token"]
    assert run(guarded, "packages", "--json", token=token).json() == []
    denied = run(guarded, "delete", "tacho", "1.0.0", token=token).complaint()
    assert denied == "this needs the role publisher; token:ci has the role viewer"
    listed = run(guarded, "token", "list", "--json").json()
    assert [one["name"] for one in listed] == ["ci"]
    assert token not in str(listed)
    assert run(guarded, "token", "revoke", "ci").status == 0
    assert "--token" in run(guarded, "packages", token=token).complaint()
    assert token not in guarded.log_text()


def test_on_the_data_folder_itself_no_controller_has_to_run(guarded: ControllerProcess) -> None:
    data = ("--data", guarded.data)
    assert run(guarded, "user", "add", "ben", "--role", "admin", *data, stdin=f"{PASSWORD}\n", token="none").status == 0
    # the running controller knows at once
    assert log_in(guarded, "ben", PASSWORD) == 200
    made = run(guarded, "token", "add", "local", "--role", "viewer", *data, token="none")
    assert run(guarded, "packages", "--json", token=made.text.strip()).json() == []
    rows = run(guarded, "audit", "--action", "user.add", "--json").json()
    (row,) = [row for row in rows if row["target"] == "ben"]
    assert row["actor"].startswith("local:")
    assert (row["via"], row["address"], row["result"]) == ("cli", None, "done")
    assert run(guarded, "user", "remove", "ben", *data).status == 0
    nowhere = run(guarded, "user", "list", "--data", guarded.data / "nowhere").complaint()
    assert "no such folder" in nowhere


@contextlib.contextmanager
def losing_answers(port: int, count: int) -> Iterator[str]:
    """A line to the controller that passes requests on and breaks before the first `count` answers are through."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        left = count
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", port), timeout=30) as server:
                pump = threading.Thread(target=_pump, args=(client, server), daemon=True)
                pump.start()
                answer = server.recv(65536)
                if left > 0:
                    left -= 1
                    client.shutdown(socket.SHUT_RDWR)
                    pump.join(30)
                    continue
                client.sendall(answer)
                _pump(server, client)
                pump.join(30)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_release_whose_answer_is_lost_is_asked_for_again_and_made_once(
    guarded: ControllerProcess, tmp_path: Path
) -> None:
    package = make_package(tmp_path, "lossy", "1.0.0", {"a": "a"})
    assert run(guarded, "push", package).status == 0
    with losing_answers(guarded.port, 2) as url:
        released = run(guarded, "release", "lossy", "1.0.0", "--channel", "lossy", "--json", url=url).json()
    found = run(guarded, "rollouts", "--json").json()
    assert [one["id"] for one in found if one["package"] == "lossy"] == [released["id"]]
    with losing_answers(guarded.port, 99) as url:
        complaint = run(guarded, "release", "lossy", "1.0.0", "--channel", "lossy", url=url).complaint()
    assert "no controller answers" in complaint
