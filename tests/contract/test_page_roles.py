"""Who may do what on the page: a viewer sees, an operator acts, a publisher releases; and all of it is written down."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from httpx import Response

from controller.accounts.roles import Role
from controller.database import utc_now
from controller.fleet.incoming import Incoming, PresenceIn, ReportedIn
from controller.fleet.intake_store import IntakeStore
from controller.fleet.orders import OrderStore
from schemas.messages import Desired, InstalledPackage, Phase, Presence, Reported
from tests.support.in_process import HOST, PASSWORD, Application, application
from tests.support.repository import make_package

HTML = {"Accept": "text/html"}
OWN = {**HTML, "Origin": f"http://{HOST}"}
FORM = {**OWN, "Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    folder = tmp_path_factory.mktemp("roles")
    with application(folder / "data") as made:
        made.repository.add(make_package(folder, "tacho", "1.0.0", {"app": "a"}))
        now = utc_now()
        for name, version in (("pi-1", "1.0.0"), ("pi-2", "0.9.0")):
            IntakeStore(made.engine).take_in(said(name, version, now), now)
        for role in Role:
            made.people.add(f"a-{role}", role, PASSWORD)
        yield made


def said(device: str, version: str, now: datetime) -> list[Incoming]:
    """A device that is online and runs a version of tacho."""
    installed = InstalledPackage(
        version=version, manifest="ab" * 32, installed_at=now, previous="0.8.0", phase=Phase.SUCCEEDED, rollout=None
    )
    reported = Reported(
        device=device, at=now, seq=0, channel="stable", tags={}, facts={}, packages={"tacho": installed}
    )
    presence = Presence(device=device, online=True, session=1, boot_id="b", agent_version="1", at=now)
    return [PresenceIn(presence=presence, live=True), ReportedIn(reported=reported, live=True)]


def log_in(app: Application, role: Role) -> None:
    app.client.cookies.clear()
    fields = {"name": f"a-{role}", "password": PASSWORD, "next": "/devices/pi-1"}
    answer = app.client.post("/login", data=fields, headers=OWN, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices/pi-1")


def get(app: Application, path: str) -> Response:
    return app.client.get(path, headers=HTML, follow_redirects=False)


def post(app: Application, path: str, **fields: str) -> Response:
    return app.client.post(path, data=fields, headers=FORM, follow_redirects=False)


def release_as_shown(app: Application, path: str, **fields: str) -> Response:
    """Look at what it would do, and confirm just that."""
    shown = post(app, path, **fields)
    assert "would take it now" in shown.text, shown.text
    (seen,) = re.findall('name="seen" value="([^"]*)"', shown.text)
    return post(app, path, **fields, seen=seen, confirm="yes")


def test_accounts_and_tokens_are_shown_to_an_admin_alone_and_without_a_secret(app: Application) -> None:
    secret = app.tokens.add("ci", Role.PUBLISHER).token
    gone = app.tokens.add("old", Role.VIEWER, lasts=timedelta(seconds=-1))
    assert app.client.get("/api/v1/rollouts", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER):
        log_in(app, role)
        assert get(app, "/accounts").status_code == 403
        assert "/accounts" not in get(app, "/audit").text
    log_in(app, Role.ADMIN)
    assert 'href="/accounts"' in get(app, "/audit").text
    shown = get(app, "/accounts").text
    words = " ".join(re.sub(r"<[^>]*>", " ", shown).split())
    assert re.search(r"a-admin admin 1 time .* a-viewer viewer", words)
    assert re.search(r"ci publisher (?!never)\S.* never .* old viewer never expired ", words)
    assert not {secret, gone.token, PASSWORD} & set(re.split(r"[\s\"'<>]+", shown))
    assert "hash" not in shown
    assert "The first token, the file api-token in the data folder" in words
    assert get(app, "/accounts?after_token=ci").text.count("expired") == 1
    assert "There is no account behind this name." in get(app, "/accounts?after_user=z").text


def test_a_page_that_says_no_keeps_the_name_and_the_way_out(app: Application) -> None:
    log_in(app, Role.VIEWER)
    for path, status in (("/accounts", 403), ("/devices/pi-1/do/hold", 403), ("/devices/nobody", 404)):
        answer = get(app, path)
        assert answer.status_code == status
        assert re.search(r"<span>a-viewer</span>\s*<button>Log out</button>", answer.text), answer.text
    app.client.cookies.clear()
    assert "Log out" not in get(app, "/nowhere").text


def test_whoever_is_not_logged_in_is_sent_to_log_in_and_comes_back(app: Application) -> None:
    app.client.cookies.clear()
    for path in ("/", "/devices?q=a", "/rollouts", "/packages/tacho", "/audit"):
        answer = get(app, path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login?next=/")
    assert get(app, "/live").status_code == 303
    part = app.client.get("/devices/pi-1/do/hold", headers={**HTML, "HX-Request": "true"}, follow_redirects=False)
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")


def test_a_viewer_sees_everything_and_is_offered_nothing(app: Application) -> None:
    log_in(app, Role.VIEWER)
    for path in ("/", "/devices", "/devices/pi-1", "/rollouts", "/packages/tacho/1.0.0", "/audit"):
        answer = get(app, path)
        assert answer.status_code == 200, path
        assert "/do/" not in answer.text, path
        assert "a-viewer" in answer.text
    for path in ("/devices/pi-1/do/hold", "/packages/tacho/1.0.0/do/release"):
        for answer in (get(app, path), post(app, path)):
            assert answer.status_code == 403, path
            assert "text/html" in answer.headers["content-type"]
            assert 'role="alert">this needs the role' in answer.text
            assert "a-viewer has the role viewer" in answer.text


def test_an_operator_acts_and_does_not_release(app: Application) -> None:
    log_in(app, Role.OPERATOR)
    assert "/do/hold" in get(app, "/devices/pi-1").text
    assert "/do/" not in get(app, "/packages/tacho/1.0.0").text
    assert post(app, "/packages/tacho/1.0.0/do/release", channel="stable").status_code == 403
    answer = post(app, "/devices/pi-1/do/hold")
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == "/devices/pi-1?did=hold"
    assert "held" in get(app, "/devices/pi-1").text


def test_a_publisher_releases_and_it_is_in_the_audit_log_with_what_was_refused(app: Application) -> None:
    log_in(app, Role.PUBLISHER)
    assert "/do/release" in get(app, "/packages/tacho/1.0.0").text
    wrong = post(app, "/packages/tacho/1.0.0/do/release", channel="Not A Channel")
    assert wrong.status_code == 400
    assert wrong.text.count('role="alert"') == 1
    answer = release_as_shown(app, "/packages/tacho/1.0.0/do/release", channel="stable")
    assert answer.status_code == 303
    shown = get(app, answer.headers["location"])
    assert "tacho 1.0.0" in shown.text
    rollout = answer.headers["location"].partition("?")[0]
    assert f"{rollout}/do/cancel-all" in shown.text
    assert "drop" in get(app, f"{rollout}/do/cancel-all").text
    assert post(app, f"{rollout}/do/cancel-all").status_code == 303
    assert "Cancel was asked for" in get(app, rollout).text
    log = get(app, "/audit?actor=user:a-publisher").text
    assert "release.announce" in log
    assert "rollout.cancel" in log
    assert "a-operator" not in log.partition("<main")[2]


def test_of_two_who_tell_a_device_something_at_once_neither_takes_back_what_the_other_said(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(app, Role.OPERATOR)
    orders, change = OrderStore(app.engine), OrderStore.change_desired

    def a_moment_later(self: OrderStore, device: str, *more: Any) -> Desired:
        """Somebody else pins another package after the form came in, and before it is acted on."""
        orders.set_desired(device, pins={"needle": "2.0.0"})
        return change(self, device, *more)

    monkeypatch.setattr(OrderStore, "change_desired", a_moment_later, raising=True)
    with monkeypatch.context() as patch:
        # what is told anew in place of everything goes the same way, and is not what this is about
        patch.setattr(orders, "change_desired", partial(change, orders))
        assert post(app, "/devices/pi-2/do/pin", package="tacho", version="0.9.0").status_code == 303
    told = orders.desired("pi-2")
    assert told is not None
    assert told.pins == {"needle": "2.0.0", "tacho": "0.9.0"}
    assert [row.action for row in app.audit.entries(limit=1)] == ["device.pin"]
    assert [row.target for row in app.audit.entries(limit=1)] == ["pi-2"]


def test_what_a_release_would_do_is_shown_before_it_can_be_confirmed(app: Application) -> None:
    log_in(app, Role.PUBLISHER)
    path = "/packages/tacho/1.0.0/do/release"
    before = app.client.get("/api/v1/rollouts").json()
    foreseen = app.client.post(
        "/api/v1/releases/preflight",
        json={"package": "tacho", "version": "1.0.0", "channel": "stable", "plan": "canary"},
        headers={"Origin": f"http://{HOST}"},
    ).json()
    assert foreseen["meant"] == 2
    # the only channel that there is does not have to be filled in
    for shown in (get(app, path), post(app, path, channel="stable", plan="canary")):
        assert f"{foreseen['ready']} of 2 devices" in shown.text
        assert "pi-2" in shown.text
    assert "What it would do" not in post(app, path, channel="").text
    # whoever confirms something else than they were shown is shown that first
    answer = post(app, path, channel="stable", plan="careful", seen="stable canary", confirm="yes")
    assert (answer.status_code, "by the plan careful" in answer.text) == (200, True)
    able, now, later = (foreseen[name] for name in ("ready", "starting", "later"))
    words = "would take it now" if now == able else f"could take it: {now} now, {later} later"
    assert words in post(app, path, channel="stable", plan="canary", seen="stable canary").text
    assert app.client.get("/api/v1/rollouts").json() == before
    # a question is no change
    assert "confirm" not in str(app.audit.entries(limit=1))


def test_a_name_of_an_account_is_never_markup(app: Application) -> None:
    log_in(app, Role.VIEWER)
    shown = get(app, "/audit?actor=%3Cscript%3E&target=%22%3E%3Cimg%3E").text
    assert "<script>" not in shown.partition("<main")[2]
    assert "<img" not in shown
