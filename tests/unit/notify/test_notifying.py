"""What is told, to whom, and how often; deliveries go to a real HTTP server of this machine."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select, update
from urllib3.exceptions import SSLError

from controller.database import reading, to_db, writing
from controller.fleet.intake_store import IntakeStore
from controller.logs import set_up_logging
from controller.notify import notifier, outbox, sending
from controller.notify.config import NotifyConfig, Target, read_config
from controller.notify.kinds import KINDS, RolloutMoment, of_rollout
from controller.notify.known import refuse_unknown
from controller.notify.notifier import Notifier
from controller.notify.outbox import BACKOFF_S, Outbox, Waiting
from controller.notify.reasons import why_no_answer
from controller.notify.sending import DeliveryError, send
from controller.notify.tables import notifications
from controller.rollouts.plan import RolloutState
from controller.rollouts.store import RolloutStore
from controller.rollouts.tables import rollouts
from controller.rollouts.waves import RolloutPlan, Wave
from schemas.errors import OperatorError
from tests.support.links import until
from tests.support.receiver import Receiver
from tests.unit.fleet.builders import NOW, presence_in, reported_in, succeeded_in

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
LATER = NOW + timedelta(minutes=10)
DAY = timedelta(days=1)


def target(name: str = "ops", url: str = "http://127.0.0.1:9/secret-path", **changes: Any) -> Target:
    return Target(**({"name": name, "url": url, "key": KEY, "kinds": frozenset(KINDS)} | changes))


def config(*targets: Target) -> NotifyConfig:
    return NotifyConfig(silent_after_s=DAY.total_seconds(), targets=targets or (target(),))


def a_rollout(engine: Engine, version: str = "2.0.0") -> str:
    made = RolloutStore(engine).create(
        package="tacho", version=version, channel="stable", repository=["http://x"], now=NOW
    )
    return made.id


def becomes(engine: Engine, rollout: str, state: str, at: datetime, stopped: str | None = None) -> None:
    """As the engine writes it."""
    with writing(engine) as connection:
        changed = update(rollouts).where(rollouts.c.id == rollout)
        connection.execute(changed.values(state=state, changed_at=to_db(at), stopped=stopped))


def titles(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.scalars(select(notifications.c.title).order_by(notifications.c.id)))


# what is news


def test_whoever_may_say_go_is_told_once_that_a_wave_waits_for_it(engine: Engine) -> None:
    box, store = Outbox(engine, config()), RolloutStore(engine)
    intake = IntakeStore(engine)
    intake.take_in([one for name in ("pi-1", "pi-2") for one in (presence_in(name), reported_in(name))], NOW)
    plan = RolloutPlan(waves=[Wave(devices=["pi-1"]), Wave(upto=100, approval=True)])
    made = store.create(
        package="tacho", version="2.0.0", channel="stable", repository=["http://x"], plan=plan, now=NOW
    ).id
    box.look(NOW)
    assert titles(engine) == []
    intake.take_in(succeeded_in("pi-1", rollout=made), LATER)
    store.evaluate(made, LATER)
    for _ in range(2):
        box.look(LATER)
    (one,) = box.due("ops", LATER)
    assert (one.kind, one.title) == ("rollout.waiting", "tacho 2.0.0 on stable waits for approval")
    assert one.body == f"Wave 2 of 2 begins when somebody says go: flotilla approve {made}"
    assert (one.data["rollout"], one.data["wave"], one.data["waves"]) == (made, 2, 2)
    assert one.data["verdicts"] == {"succeeded": 1, "waiting": 1}
    store.approve(made, LATER)
    store.evaluate(made, LATER)
    box.look(LATER + DAY / 2)
    assert titles(engine) == [one.title]


def test_a_rollout_that_stops_for_its_failures_is_told_with_its_reason(engine: Engine) -> None:
    box, rollout = Outbox(engine, config()), a_rollout(engine)
    box.look(NOW)
    becomes(engine, rollout, "paused", LATER, "wave 1: 2 of 2 devices failed")
    box.look(LATER)
    (one,) = box.due("ops", LATER)
    assert (one.kind, one.title) == ("rollout.stopped", "tacho 2.0.0 on stable is paused")
    assert "Why: wave 1: 2 of 2 devices failed" in one.body
    assert (one.data["rollout"], one.data["because"]) == (rollout, "wave 1: 2 of 2 devices failed")


def test_what_a_person_asked_for_is_no_news_but_a_halt_is(engine: Engine) -> None:
    box, rollout = Outbox(engine, config()), a_rollout(engine)
    box.look(NOW)
    for minute, state in enumerate(("paused", "halted", "reverted")):
        becomes(engine, rollout, state, LATER + timedelta(minutes=minute))
        box.look(LATER + timedelta(minutes=minute))
    assert titles(engine) == ["tacho 2.0.0 on stable is halted"]


def test_what_stops_at_nothing_says_at_its_end_on_how_many_it_failed() -> None:
    def title(state: RolloutState, **verdicts: int) -> str:
        names = {"package": "tacho", "version": "2.0.0", "channel": "stable", "rollout": "r", "stopped": "too many"}
        told = of_rollout(RolloutMoment(**names, state=state, changed_at=1, verdicts=verdicts, failures={}))
        assert told is not None
        return told.title

    complete = RolloutState.COMPLETE
    assert title(complete, succeeded=2) == "tacho 2.0.0 on stable is finished"
    failed = {"failed": 1, "rolled_back": 2, "silent": 1, "succeeded": 5, "rejected": 1}
    assert title(complete, **failed) == "tacho 2.0.0 on stable is finished, and failed on 4 of 10"
    assert title(RolloutState.HALTED, **failed) == "tacho 2.0.0 on stable is halted"


def test_each_thing_is_told_once_however_often_and_after_whatever_restart_it_is_looked_at(engine: Engine) -> None:
    rollout = a_rollout(engine)
    Outbox(engine, config()).look(NOW)
    becomes(engine, rollout, "complete", LATER)
    for minute in range(3):
        Outbox(engine, config()).look(LATER + timedelta(minutes=minute))
    becomes(engine, rollout, "active", LATER + timedelta(minutes=3))
    becomes(engine, rollout, "complete", LATER + timedelta(minutes=4))
    Outbox(engine, config()).look(LATER + timedelta(minutes=5))
    assert titles(engine) == ["tacho 2.0.0 on stable is finished"]


def test_a_rollout_that_is_halted_again_after_going_on_is_told_again(engine: Engine) -> None:
    box, rollout = Outbox(engine, config()), a_rollout(engine)
    box.look(NOW)
    for minute in (1, 2):
        becomes(engine, rollout, "halted", LATER + timedelta(minutes=minute), "too many failed")
        box.look(LATER + timedelta(minutes=minute))
    assert len(titles(engine)) == 2


def test_what_happened_before_anybody_was_to_be_told_is_not_told(engine: Engine) -> None:
    rollout = a_rollout(engine)
    becomes(engine, rollout, "halted", NOW)
    IntakeStore(engine).take_in([reported_in("pi-1"), presence_in("pi-1", online=False)], NOW - 2 * DAY)
    box = Outbox(engine, config())
    box.look(NOW + timedelta(seconds=1))
    box.look(LATER)
    assert titles(engine) == []


def test_devices_that_fall_silent_together_are_told_together_and_once(engine: Engine) -> None:
    box, store = Outbox(engine, config()), IntakeStore(engine)
    box.look(NOW)
    gone = [one for name in ("pi-1", "pi-2") for one in (reported_in(name), presence_in(name, online=False))]
    store.take_in([*gone, reported_in("pi-3"), presence_in("pi-3")], LATER)
    store.take_in([presence_in("lost", online=False)], LATER)  # never reported, or taken out of service
    box.look(LATER + DAY - timedelta(seconds=1))
    assert titles(engine) == []
    for hour in (1, 2):
        box.look(LATER + DAY + timedelta(hours=hour))
    (one,) = box.due("ops", LATER + 2 * DAY)
    assert (one.title, one.data["devices"], one.data["count"]) == ("2 devices are silent", ["pi-1", "pi-2"], 2)
    store.take_in([presence_in("pi-1", session=2)], LATER + 2 * DAY)
    store.take_in([presence_in("pi-1", online=False, session=2)], LATER + 3 * DAY)
    box.look(LATER + 4 * DAY + timedelta(hours=1))
    assert titles(engine) == ["2 devices are silent", "pi-1 is silent"]


def test_more_news_than_one_look_takes_are_all_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_AT_ONCE", 2)
    box = Outbox(engine, config())
    made = [a_rollout(engine, f"{number}.0.0") for number in range(1, 6)]
    box.look(NOW)
    for minute, rollout in enumerate(made):
        becomes(engine, rollout, "halted", LATER + timedelta(minutes=minute))
    for _ in range(3):
        box.look(LATER + timedelta(minutes=9))
    assert sorted(titles(engine)) == [f"tacho {number}.0.0 on stable is halted" for number in range(1, 6)]


def test_each_target_is_told_of_what_it_asked_for(engine: Engine) -> None:
    box = Outbox(engine, config(target("all"), target("ends", kinds=frozenset({"rollout.finished"}))))
    first, second = a_rollout(engine), a_rollout(engine, "3.0.0")
    box.look(NOW)
    becomes(engine, first, "halted", LATER)
    becomes(engine, second, "complete", LATER)
    box.look(LATER)
    assert {one.kind for one in box.due("all", LATER)} == {"rollout.stopped", "rollout.finished"}
    assert {one.kind for one in box.due("ends", LATER)} == {"rollout.finished"}


def test_the_words_have_counts_and_errors() -> None:
    moment = RolloutMoment(
        rollout="r",
        package="tacho",
        version="2.0.0",
        channel="stable",
        state=RolloutState.HALTED,
        stopped="",
        changed_at=1,
        verdicts={"rolled_back": 2, "pending": 3},
        failures={"health.http": 2},
    )
    told = of_rollout(moment)
    assert told is not None
    assert told.text.splitlines() == [
        "Why: halted by an operator",
        "Devices: 3 pending, 2 rolled back",
        "Errors: health.http on 2",
        "Rollout r",
    ]


# keeping and trying again


def halted(engine: Engine, box: Outbox, at: datetime = LATER) -> None:
    rollout = a_rollout(engine)
    box.look(NOW)
    becomes(engine, rollout, "halted", at)
    box.look(at)


def test_what_fails_is_tried_again_later_and_later_and_then_given_up(engine: Engine) -> None:
    box = Outbox(engine, config())
    halted(engine, box)
    now = LATER
    for wait_s in BACKOFF_S:
        (one,) = box.due("ops", now)
        assert box.failed(one, "no answer", now) == wait_s
        assert box.due("ops", now + timedelta(seconds=wait_s - 1)) == []
        now += timedelta(seconds=wait_s)
    (one,) = box.due("ops", now)
    assert box.failed(one, "no answer", now) is None
    assert box.due("ops", now + 30 * DAY) == []


def test_what_waits_for_a_target_is_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 2)
    box, rollout = Outbox(engine, config()), a_rollout(engine)
    box.look(NOW)
    left_out = []
    for minute in range(4):
        becomes(engine, rollout, "halted", LATER + timedelta(minutes=minute))
        left_out.append(box.look(LATER + timedelta(minutes=minute)))
    assert left_out[:2] == [0, 0]
    assert left_out[2] == 1
    assert len(titles(engine)) == 2


# delivering


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@asynccontextmanager
async def notifying(made: Notifier) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running


def a_notifier(engine: Engine, *targets: Target, clock: Callable[[], datetime] = lambda: LATER) -> Notifier:
    there = config(*targets)
    return Notifier(Outbox(engine, there), there, CollectorRegistry(), clock=clock)


async def test_a_webhook_gets_a_signed_request_with_the_same_id_in_every_attempt_and_once_it_took_it_no_more(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr(notifier, "LOOK_EVERY_S", 0.05)
    receiver.answers = [503, 302]
    hook = target(url=f"http://{receiver.address}/hook")
    halted(engine, Outbox(engine, config(hook)))
    async with notifying(a_notifier(engine, hook)):
        await until(lambda: len(receiver.requests) == 3)
    async with notifying(a_notifier(engine, hook)):  # started again
        await until(lambda: not waiting(engine))
    assert len(receiver.requests) == 3, "a redirect is not followed, and what was taken is not sent again"
    ids = set()
    for path, headers, body in receiver.requests:
        assert path == "/hook"
        ids.add(headers["webhook-id"])
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["webhook-timestamp"] == str(int(LATER.timestamp()))
        told = json.loads(body)
        assert (told["type"], told["data"]["title"]) == ("rollout.stopped", "tacho 2.0.0 on stable is halted")
    assert len(ids) == 1


def waiting(engine: Engine) -> int:
    with reading(engine) as connection:
        return len(connection.scalars(select(notifications.c.id).where(notifications.c.due_at.is_not(None))).all())


async def test_apprise_delivers_to_whatever_service_its_url_names(engine: Engine, receiver: Receiver) -> None:
    chat = target("chat", url=f"json://{receiver.address}/chat", key=None)
    halted(engine, Outbox(engine, config(chat)))
    async with notifying(a_notifier(engine, chat)):
        await until(lambda: not waiting(engine))
    ((path, _, body),) = receiver.requests
    told = json.loads(body)
    assert (path, told["title"], told["type"]) == ("/chat", "tacho 2.0.0 on stable is halted", "warning")


async def test_a_target_that_hangs_or_breaks_holds_up_no_other_and_no_secret_is_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "SEND_BOUND_S", 0.2)
    delivered: list[str] = []

    def deliver(to: Target, one: Waiting, _: datetime) -> None:
        if to.name == "hangs":
            asyncio.run(asyncio.wait_for(asyncio.Event().wait(), 1))
        if to.name == "breaks":
            raise ZeroDivisionError("secret-token")
        delivered.append(to.name)

    targets = [target(name) for name in ("hangs", "breaks", "works")]
    halted(engine, Outbox(engine, config(*targets)))
    there = config(*targets)
    made = Notifier(Outbox(engine, there), there, CollectorRegistry(), deliver=deliver, clock=lambda: LATER)
    with caplog.at_level(logging.INFO):
        async with notifying(made):
            await until(lambda: delivered == ["works"])
            await until(lambda: "hangs was not told" in caplog.text and "breaks was not told" in caplog.text)
    assert "secret" not in caplog.text
    assert "its library failed (ZeroDivisionError); next attempt in 10 s" in caplog.text


def test_what_a_target_answers_is_told_without_its_address(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_logging()  # as the program does, when everything is imported
    one = Waiting(id="1", kind="test", title="t", body="b", data={}, created_at=NOW, attempts=0)
    receiver.answers = [403]
    bad = {
        "answered 403": target(url=f"http://{receiver.address}/secret-path"),
        "no answer: connection refused": target(url="http://127.0.0.1:9/secret-path"),
        "Apprise does not know": target(url="nothing://secret-path", key=None),
        "Apprise could not deliver it": target(url="json://127.0.0.1:9/secret-path", key=None),
    }
    with caplog.at_level(logging.DEBUG):
        for why, to in bad.items():
            with pytest.raises(DeliveryError) as caught:
                send(to, one, NOW)
            assert why in str(caught.value)
            assert "secret" not in str(caught.value)
            assert "secret" not in repr(to)
    assert "secret" not in "".join(line.getMessage() for line in caplog.records if line.levelno >= logging.INFO)
    assert sending.TIMEOUT_S < notifier.SEND_BOUND_S


def test_an_address_that_apprise_does_not_know_is_told_without_it(tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    good, hook = target("good", url="json://127.0.0.1/", key=None), target("hook")
    refuse_unknown(path, config(hook, good))
    for url in ("nosuch://top-secret", "slack://top-secret"):
        with pytest.raises(OperatorError) as caught:
            refuse_unknown(path, config(hook, good, target("chat", url=url, key=None)))
        assert "target chat: its url is none that Apprise knows" in caught.value.message
        assert "secret" not in caught.value.message


def test_why_a_webhook_does_not_answer_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.2)
    one = Waiting(id="1", kind="test", title="t", body="b", data={}, created_at=NOW, attempts=0)

    def why(url: str) -> str:
        with pytest.raises(DeliveryError) as caught:
            send(target(url=url), one, NOW)
        assert "secret" not in str(caught.value)
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/secret-path"
        assert why(f"http://{address}") == "no answer: timed out after 0.2 s"
        assert why(f"https://{address}") == "no answer: timed out after 0.2 s"
    assert why(f"http://{address}") == "no answer: connection refused"
    assert why("http://secret.invalid/") == "no answer: no such host, or no name server answers"
    with says_and_closes(b"") as address:
        assert why(f"http://{address}") == "no answer: the connection was closed"
    with says_and_closes(b"220 secret.example ESMTP\r\n") as address:
        assert why(f"http://{address}") == "no answer: what is there does not speak HTTP"
    with says_and_closes(b"220 secret.example ESMTP\r\n") as address:
        assert why(f"https://{address}") == "no answer: TLS failed: wrong version number"


def test_a_certificate_that_is_not_trusted_is_told_without_its_host() -> None:
    other = ssl.SSLCertVerificationError(1, "certificate is not valid for 'secret'")
    other.verify_code, other.verify_message = 62, "Hostname mismatch, certificate is not valid for 'secret'."
    assert why_no_answer(SSLError(other), 1) == "its certificate is for another host"
    other.verify_code, other.verify_message = 10, "certificate has expired"
    assert why_no_answer(SSLError(other), 1) == "its certificate is not trusted: certificate has expired"


@contextmanager
def says_and_closes(said: bytes) -> Iterator[str]:
    """A server that takes one request, and says this; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)

        answering = threading.Thread(target=answer)
        answering.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}/secret-path"
        answering.join()


@pytest.mark.parametrize("key", [KEY, None], ids=["webhook", "apprise"])
def test_nor_is_an_answer_quoted_with_it_that_is_none(key: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    set_up_logging()
    one = Waiting(id="1", kind="test", title="t", body="b", data={}, created_at=NOW, attempts=0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 0\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}/secret-path"
        send(target(url=f"{'json' if key is None else 'http'}://{address}", key=key), one, NOW)
        answering.join()
    assert "secret" not in caplog.text


# the file


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "notify.toml"
    path.write_text(text)
    return path


def test_the_file_names_targets_and_where_their_secrets_are(tmp_path: Path) -> None:
    (tmp_path / "hook.secret").write_text(SECRET + "\n")
    text = """
    silent_after_hours = 2
    [[apprise]]
    name = "mail"
    url = "mailtos://me:pass@example.com"
    events = ["device.silent"]
    [[webhook]]
    name = "ci"
    url = "https://ci.example/hook"
    secret_file = "hook.secret"
    """
    read = read_config(write(tmp_path, text))
    assert read.silent_after_s == 7200
    mail, hook = read.targets
    assert (mail.key, mail.kinds) == (None, {"device.silent"})
    assert (hook.key, hook.kinds) == (KEY, set(KINDS))
    assert "pass" not in repr(read)


HOOK = '[[webhook]]\nname = "ci"\nurl = "https://ci.example/top-secret"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names nobody to tell: each target begins with a line [[apprise]] or [[webhook]]"),
        (
            "".join(HOOK.replace("ci", f"ci-{n}", 1) + f'secret = "{SECRET}"\n' for n in range(21)),
            "names 21 targets; 20 can be at most",
        ),
        (
            "silent_after_hours = 0\n" + HOOK + f'secret = "{SECRET}"',
            "silent_after_hours = 0; it must be a number of hours from 0.01 to",
        ),
        (HOOK, "target ci: it has no secret; give either secret or secret_file; make one with: echo"),
        (HOOK + 'secret = "top-secret"', "openssl rand -base64 32"),
        (HOOK + 'secret_file = "nowhere"', "secret_file nowhere cannot be read: No such file"),
        (HOOK + 'secret_file = "whsec_top-secret"', "secret_file names a file; the secret itself is written as secret"),
        (HOOK + 'secret_file = " whsec_top-secret"', "secret_file names a file; the secret itself is written as"),
        (HOOK + 'secret_file = "top-secret+top/secret=="', "target ci: secret_file cannot be read: No such file"),
        (
            '[[apprise]]\nname = "chat"\nurl_file = "mailto:top-secret@x"',
            "target chat: url_file cannot be read: No such",
        ),
        ('[[apprise]]\nname = "json://top-secret"\nurl = "x"', "target apprise 1: name must be a short name"),
        (HOOK + f'secret = "{SECRET}"\nsecret_file = "s"', "target ci: it has both secret and secret_file; take one"),
        (
            HOOK + f'secret = "{SECRET}"\nevents = ["everything"]',
            "target webhook 1: events = ['everything']; it must be a list of some of rollout.stopped",
        ),
        (HOOK + f'secret = "{SECRET}"\nevents = []', "target ci: its events are none; leave them out for all"),
        (HOOK + f'secret = "{SECRET}"\n' + HOOK + f'secret = "{SECRET}"', "two targets are called ci; give one"),
        (
            '[[webhook]]\nname = "ci"\nurl = "ftp://top-secret"\n' + f'secret = "{SECRET}"',
            "target ci: its url must be a whole address to POST to, such as https://",
        ),
        (
            '[[apprise]]\nname = "chat"\nurl = "top-secret"',
            "its url must be one that Apprise knows, such as mailtos://",
        ),
        ('[[apprise]]\nname = "chat"\nurl_file = "json://top-secret"', "url_file names a file; the url itself is"),
        ('[[apprise]]\nname = "chat"\nurl = 5', "target apprise 1: url must be an address in double quotes"),
        (
            '[[apprise]]\nname = "chat"\nurl = "json://x"\nsecret = "top-secret"',
            "only a webhook has a secret; take secret out",
        ),
        (
            '[[apprise]]\nname = "chat"\nurl = top-secret',
            "is no TOML (at line 3, column 7): what stands behind = is no value; text is written in double quotes",
        ),
        ('[[apprise]]\nname = "top-secret\n', "(at line 2, column 19): a text is not closed on its line"),
        ('[[apprise]\nname = "chat"', "(at line 1, column 10): a target begins with [[apprise]] or [[webhook]], two"),
        ('[[apprise]]\nname = "a"\nname = "b"\n', "(at line 3, column 11): a key is there for the second time"),
        ("[apprise]\n[apprise]", "(at line 2, column 9): a target begins with [[apprise]] or [[webhook]], two"),
        ("[apprise.x]\n[apprise.x]", "(at line 2, column 11); https://toml.io shows how it is written"),
        ("a = " + 5000 * "[", "lists within lists, too many of them"),
        ('[apprise]\nname = "chat"', "apprise must be targets, each under a line [[apprise]]"),
        ('[[apprise]]\nurl = "json://x"', 'target apprise 1: it has no name; write e.g. name = "ops"'),
        (
            '[[apprise]]\nname = "Chat!"\nurl = "json://x"',
            "target apprise 1: name = 'Chat!'; it must be a short name: a-z, 0-9 and '-'",
        ),
        ("[[slack]]", "unknown key 'slack'; known here: apprise, silent_after_hours, webhook"),
        ("[[webhooks]]", "unknown key 'webhooks'; did you mean 'webhook'?"),
        (HOOK + 'secrets = "top-secret"', "unknown key 'secrets' in target webhook 1; did you mean 'secret'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line_without_its_secrets(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorError) as caught:
        read_config(write(tmp_path, text))
    line = str(caught.value)
    assert says in line
    assert "top-secret" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\nb\n", "target chat: url_file url has to hold one line, the url, and has 2"),
        (b"\xff", "url_file url holds no text"),
        (b"not an address", "the url in url_file url must be one that Apprise knows"),
    ],
)
def test_a_file_that_the_configuration_names_is_told_with_what_is_wrong_with_it(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "url").write_bytes(content)
    with pytest.raises(OperatorError, match=re.escape(says)):
        read_config(write(tmp_path, '[[apprise]]\nname = "chat"\nurl_file = "url"'))


def test_a_file_that_is_no_text_is_told_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_bytes(b"[[apprise]]\nname = '\xff'\n")
    with pytest.raises(OperatorError, match=re.escape("is no text in UTF-8 (at line 2); save it as such")):
        read_config(path)
    with pytest.raises(OperatorError, match="cannot be read: Is a directory"):
        read_config(tmp_path)
