"""The web page asked by hand, as a browser would ask."""

import time
from urllib.parse import urlencode

from tests.support.controller import Answer, ControllerProcess

HTML = {"Accept": "text/html"}
FORM = "application/x-www-form-urlencoded"
SEEN_S = 20.0


def page(controller: ControllerProcess, path: str, *, part: bool = False) -> Answer:
    """A page, or with `part` what its own script asks for."""
    return controller.call("GET", path, headers={**HTML, **({"HX-Request": "true"} if part else {})})


def post(
    controller: ControllerProcess,
    path: str,
    fields: dict[str, str] | None = None,
    *,
    origin: str | None = "",
    site: str | None = None,
    content_type: str = FORM,
    part: bool = False,
) -> Answer:
    """A form, sent by a page of this server unless told otherwise.

    Args:
        origin: of the page that sends it; empty for this server, None for no such header.
        site: what the browser says of the page's site, if anything.
        content_type: of the body.
        part: whether the page's own script sends it.
    """
    headers = {**HTML, "Content-Type": content_type}
    if origin is not None:
        headers["Origin"] = origin or controller.url
    if site is not None:
        headers["Sec-Fetch-Site"] = site
    if part:
        headers["HX-Request"] = "true"
    return controller.call("POST", path, urlencode(fields or {}).encode(), headers)


def until_page(controller: ControllerProcess, path: str, text: str) -> str:
    """A page, as soon as it holds this text."""
    give_up = time.monotonic() + SEEN_S
    while True:
        answer = page(controller, path)
        shown = answer.body.decode()
        if answer.status == 200 and text in shown:
            return shown
        assert time.monotonic() < give_up, f"{path} does not show {text!r} but {answer.status}:\n{shown}"
        time.sleep(0.05)
