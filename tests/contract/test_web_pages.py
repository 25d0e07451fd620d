"""The web page as any client sees it: addresses, headers, escaping, and who may send forms."""

import re
from collections.abc import Callable

import pytest

from schemas.messages import Phase
from tests.support.broker import Broker
from tests.support.controller import Answer, ControllerProcess
from tests.support.fake_device import fake_device
from tests.support.web import page, post, until_page

pytestmark = pytest.mark.broker

Unique = Callable[[str], str]
NO_ROLLOUT = "0198a1b2-c3d4-7e5f-8a6b-0123456789ab"
EVIL = "<script>alert('x')</script>\"onload=alert(1)\r\nevent: cells"


def problem_line(answer: Answer) -> str:
    """The one line of a page that says what is wrong."""
    found = re.findall(r'<p class="problem" role="alert">([^<]*)</p>', answer.body.decode())
    assert len(found) == 1, answer.body.decode()
    line: str = found[0]
    assert "\n" not in line
    return line


@pytest.mark.parametrize("path", ["/", "/devices", "/rollouts", "/packages", "/accounts"])
def test_every_page_forbids_what_is_inline_or_from_elsewhere(controller: ControllerProcess, path: str) -> None:
    answer = page(controller, path)
    assert answer.status == 200
    rules = answer.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert answer.headers["cache-control"] == "no-store"
    text = answer.body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\s(on\w+|style)=", text)
    assert "//" not in re.sub(r"https?://www\.w3\.org/\S+", "", text)


def test_static_files_are_kept_for_ever_under_the_hash_of_their_content(controller: ControllerProcess) -> None:
    text = page(controller, "/").body.decode()
    addresses = set(re.findall(r'(?:src|href)="(/static/[^"#]+)', text))
    assert {address.rpartition(".")[2] for address in addresses} == {"js", "css", "svg"}
    for address in addresses:
        answer = controller.call("GET", address)
        assert answer.status == 200, address
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", address)
    assert controller.call("GET", "/static/app.css").status == 404
    assert controller.call("GET", "/static/../api.py").status == 404


def test_an_address_that_leads_nowhere_is_a_page_for_browsers_and_a_problem_for_programs(
    controller: ControllerProcess,
) -> None:
    shown = page(controller, "/nowhere")
    assert shown.status == 404
    assert problem_line(shown) == "there is no page /nowhere"
    assert "content-security-policy" in shown.headers
    controller.call("GET", "/nowhere").problem(404, "input.bad")
    controller.call("GET", "/api/v1/nowhere", headers={"Accept": "text/html"}).problem(404, "input.bad")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/devices/nobody", "no device nobody has been heard of"),
        (f"/rollouts/{NO_ROLLOUT}", f"there is no rollout {NO_ROLLOUT}; those that there are: flotilla rollouts"),
        (f"/rollouts/{NO_ROLLOUT}/live", f"there is no rollout {NO_ROLLOUT}; those that there are: flotilla rollouts"),
        ("/packages/nothing", "there is no package nothing in the repository"),
        ("/packages/nothing/1.0.0", "there is no nothing 1.0.0 in the repository"),
        ("/packages/nothing/compare?from=1.0.0&to=1.1.0", "there is no nothing 1.0.0 in the repository"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(controller: ControllerProcess, path: str, line: str) -> None:
    answer = page(controller, path)
    assert answer.status == 404
    assert problem_line(answer) == line


def test_an_action_that_does_not_exist_is_not_found(controller: ControllerProcess) -> None:
    for path in (f"/rollouts/{NO_ROLLOUT}/do/dance", "/devices/pi-1/do/replay", "/packages/a/1.0.0/do/delete"):
        assert page(controller, path).status == 404
        assert post(controller, path).status == 404


async def test_what_devices_say_is_never_markup(controller: ControllerProcess, broker: Broker, unique: Unique) -> None:
    name = unique("pi")
    async with fake_device(broker.url, name, topic_root=controller.topic_root, channel="escape") as device:
        facts = {"model": EVIL, "services": EVIL, "platform": "linux-aarch64"}
        await device.report(facts=facts, tags={"site": EVIL})
        await device.say(Phase.DEFERRED, detail={"reason": EVIL}, package="evil")
        text = until_page(controller, f"/devices/{name}", "deferred")
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text


async def test_a_form_counts_only_from_a_page_of_this_server(
    controller: ControllerProcess, broker: Broker, unique: Unique
) -> None:
    name = unique("pi")
    async with fake_device(broker.url, name, topic_root=controller.topic_root) as device:
        await device.report()
        until_page(controller, f"/devices/{name}", "Hold")
        path = f"/devices/{name}/do/hold"
        for origin in (None, "null", "http://evil.example", f"https://127.0.0.1:{controller.port + 1}"):
            refused = post(controller, path, origin=origin)
            assert refused.status == 403, origin
            problem_line(refused)
        assert post(controller, path, site="cross-site").status == 403
        assert post(controller, path, content_type="text/plain").status == 415
        foreign = {"Accept": "text/html", "Host": "rebound.example"}
        assert controller.call("GET", f"/devices/{name}", headers=foreign).status == 400
        assert controller.get(f"/devices/{name}/desired").json()["rev"] == 0

        done = post(controller, path)
        assert done.status == 303
        assert done.headers["location"] == f"/devices/{name}?did=hold"
        assert controller.get(f"/devices/{name}/desired").json()["hold"] is True
        await device.until(lambda: device.desired and device.desired[-1].hold)
        assert "Held: the device starts no update." in page(controller, done.headers["location"]).body.decode()
        assert "<script" not in page(controller, f"/devices/{name}?did=%3Cscript%3E").body.decode().split("<main")[1]
