"""Makes HTML: one environment that escapes everything, and the filters that write values for people."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.template.config import TemplateConfig

from controller.cli.common import size_text
from controller.database import utc_now
from controller.rollouts import phases
from controller.rollouts.explaining import left_out_text, person
from controller.rollouts.plan import RolloutState
from controller.version import VERSION
from controller.web.statics import Statics
from controller.web.visitor import Visitor
from schemas.errors import one_line
from schemas.messages import shown_in

FOLDER: Final = Path(__file__).parent / "templates"

HEADERS: Final = {
    # nothing from elsewhere, nothing inline; an address with somebody's search in it is no other site's business,
    # but a form's Origin must be told to this one
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "HX-Request",
}

Asked = Request[Any, Any, Any]


def make_environment(statics: Statics) -> Environment:
    """The environment of all templates."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"size": size_text, "ago": ago, "exact": exact, "iso": iso, "count": count, "percent": percent}
    made.filters |= {"duration": duration, "plural": plural, "have_it": have_it, "person": person}
    made.filters |= {"left_out": left_out_text, "cut": one_line}
    made.globals |= {
        "static": statics.url,
        "away": lambda: None,
        "flotilla_version": VERSION,
        "look_of": phases.look_of,
        "looks": phases.LOOKS,
        "kinds": msgspec.json.encode({code: look.kind for code, look in phases.LOOKS.items()}).decode(),
        "states": {state.value: kind for state, kind in phases.STATES.items()},
        "RolloutState": RolloutState,
    }
    return made


def away_part(environment: Environment) -> dict[str, str]:
    """What every live page says of the connection to the broker."""
    return {"away": environment.get_template("away.html").render()}


def template_config(environment: Environment) -> TemplateConfig[JinjaTemplateEngine]:
    """For the application."""
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(environment))


def is_part(request: Asked) -> bool:
    """Whether the page asks for a part of itself."""
    return request.headers.get("hx-request") == "true"


def page(request: Asked, visitor: Visitor, template: str, /, *, status: int = 200, **context: Any) -> Template:
    """A page, or only what is inside where the page itself asks."""
    values: Mapping[str, Any] = {
        "visitor": visitor,
        "path": request.url.path,
        "now": utc_now(),
        "layout": "part.html" if is_part(request) else "base.html",
        "notice": None,
        **context,
    }
    return Template(template_name=template, context=dict(values), status_code=status, headers=HEADERS)


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that fits: `4 min ago`."""
    if moment is None:
        return "never"
    seconds = ((now or utc_now()) - moment).total_seconds()
    if seconds < 0:
        return f"in {duration(-seconds)}"
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """A length of time in the largest unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def exact(moment: datetime | None) -> str:
    """A moment to the second, in UTC."""
    return "" if moment is None else shown_in(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(moment: datetime) -> str:
    """A moment for programs."""
    return shown_in(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def count(number: int) -> str:
    """A number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(share: float) -> str:
    """A share for people; only what is complete is 100 %."""
    return f"{int(share * 100)} %"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 device`, `2 devices`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def have_it(good: int, of: int, what: str = "") -> str:
    """`2 of 3 devices have it`, `0 of 1 device of this wave has it`."""
    return f"{count(good)} of {plural(of, 'device')}{what} {'has' if of == 1 else 'have'} it"
