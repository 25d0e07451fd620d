"""Delivers one notification to one target; blocks. What goes wrong is told without the target's address."""

import base64
import hashlib
import hmac
import logging
from datetime import datetime
from typing import Final

import msgspec
import urllib3

from controller.notify.config import Target
from controller.notify.outbox import Waiting
from controller.notify.reasons import why_no_answer
from controller.notify.words import WIKI
from controller.version import VERSION

TIMEOUT_S: Final = 10.0

# their lines may quote addresses, which for many services are secrets
for _library in ("apprise", "urllib3"):
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)


class DeliveryError(Exception):
    """It was not delivered; the text says why, and may be logged."""


def send(target: Target, one: Waiting, now: datetime) -> None:
    """Deliver.

    Raises:
        DeliveryError: the target did not take it.
    """
    if target.key is None:
        _by_apprise(target, one)
    else:
        _by_webhook(target, target.key, one, now)


def webhook_request(key: bytes, one: Waiting, now: datetime) -> tuple[bytes, dict[str, str]]:
    """Body and headers as Standard Webhooks 1.0.0 has them (https://www.standardwebhooks.com).

    The signature is HMAC-SHA256 over `id.timestamp.body`. The id stays the same in every attempt, so that a receiver
    knows what it has already.
    """
    told = {"type": one.kind, "timestamp": one.created_at, "data": {"title": one.title, "text": one.body, **one.data}}
    body, identity, moment = msgspec.json.encode(told), f"msg_{one.id}", str(int(now.timestamp()))
    signed = hmac.digest(key, f"{identity}.{moment}.".encode() + body, hashlib.sha256)
    return body, {
        "Content-Type": "application/json",
        "User-Agent": f"flotilla/{VERSION}",
        "webhook-id": identity,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def _by_webhook(target: Target, key: bytes, one: Waiting, now: datetime) -> None:
    body, headers = webhook_request(key, one, now)
    try:
        with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=TIMEOUT_S)) as pool:
            answer = pool.request("POST", target.url, body=body, headers=headers, redirect=False, preload_content=False)
            answer.close()
    except urllib3.exceptions.HTTPError as error:
        raise DeliveryError(f"no answer: {why_no_answer(error, TIMEOUT_S)}") from error
    except ValueError as error:
        raise DeliveryError("its url cannot be asked") from error
    if not 200 <= answer.status < 300:
        raise DeliveryError(f"answered {answer.status}")


def _by_apprise(target: Target, one: Waiting) -> None:
    # takes a while to load, and most controllers have none of it
    import apprise  # noqa: PLC0415

    sender = apprise.Apprise()
    if not sender.add(target.url):
        raise DeliveryError(f"Apprise does not know such a url; {WIKI} lists them")
    bad = apprise.NotifyType.WARNING if one.kind != "rollout.finished" else apprise.NotifyType.SUCCESS
    if not sender.notify(title=one.title, body=one.body, notify_type=bad, body_format=apprise.NotifyFormat.TEXT):
        raise DeliveryError("Apprise could not deliver it")
