"""The API's description against the API itself: what schemathesis makes of it, in the same order every time."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis.checks import FailureGroup, not_a_server_error
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from controller.accounts.roles import Role
from controller.database import utc_now
from controller.fleet.intake_store import IntakeStore
from controller.http.rules import RULES, V1
from controller.rollouts.store import RolloutStore
from schemas.errors import OperatorError
from tests.support.in_process import FILE_TOKEN, JSON, PASSWORD, Application, application, bearer
from tests.support.repository import add_release
from tests.unit.fleet.builders import installed, presence_in, reported_in

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 40
# an endless stream; it has tests of its own
ROUTES = sorted(route for route in RULES if route[1].startswith(V1) and route != ("GET", f"{V1}/watch"))
KNOWN = {"device_id": "pi-1", "package": "tacho", "version": "1.0.0", "channel": "stable", "actor": "token:ci"}
NAMES = {f"{V1}/users/{{name}}": "anna", f"{V1}/tokens/{{name}}": "ci"}
"""What the `name` in a path is, where it is no package's."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("described")) as made:
        yield made


@pytest.fixture(scope="module")
def api(app: Application) -> Iterator[Any]:
    yield schemathesis.openapi.from_asgi("/api/docs/openapi.json", app.litestar)
    # where pytest runs without its plugin, nobody else ends what it began, and the application waits for that
    shutdown_lifespans()


@pytest.fixture
def known(app: Application) -> dict[str, str]:
    """What there is to be named, by the name of what names it, whatever the tests before have removed."""
    add_release(app.repository, "tacho", "1.0.0", {"a": "a"})
    with suppress(OperatorError):
        app.people.add("anna", Role.VIEWER, PASSWORD)
    with suppress(OperatorError):
        app.tokens.add("ci", Role.VIEWER)
    rollouts = RolloutStore(app.engine)
    rollout = rollouts.create(package="tacho", version="1.0.0", channel="stable", repository=["http://r"]).id
    runs = {"tacho": installed("1.0.0", rollout=rollout)}
    IntakeStore(app.engine).take_in([presence_in("pi-1"), reported_in("pi-1", packages=runs)], utc_now())
    return {**KNOWN, "rollout_id": rollout}


def name_what_is_known(case: Any, known: dict[str, str]) -> None:
    """Have a request be about what there is, and about the first page of it."""
    in_path = {"name": NAMES.get(case.operation.path, known["package"]), **known}
    for given_ones, there in ((case.path_parameters, in_path), (case.query, known), (case.body, known)):
        if isinstance(given_ones, dict):
            given_ones.update({name: there[name] for name in given_ones if name in there})
    if isinstance(case.query, dict):
        case.query.pop("after", None)


def check(operation: Any, known: dict[str, str]) -> str | None:
    """What is wrong with an operation, found by sending it what its description allows and what it does not."""

    @given(case=operation.as_strategy(), is_there=strategies.booleans())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any, is_there: bool) -> None:
        headers = bearer(FILE_TOKEN)
        if is_there:
            name_what_is_known(case, known)
            # a change without a body has to say so too
            headers |= {} if case.media_type is not None else JSON
        answer = case.call(headers=headers)
        case.validate_response(answer, checks=CHECKS)

    try:
        send()
    except (Exception, FailureGroup) as error:  # noqa: BLE001 - whatever it is, it is told with the operation's name
        failures = error.exceptions if isinstance(error, FailureGroup) else [error]
        return "\n".join([f"{operation.label}: {error}", *(repr(failure) for failure in failures)])
    return None


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_whatever_is_sent_the_answer_is_one_that_is_described(
    api: Any, known: dict[str, str], method: str, path: str
) -> None:
    wrong = check(api[path][method], known)
    assert wrong is None, wrong


def test_everything_that_is_described_is_tried(api: Any) -> None:
    described = {result.ok().label for result in api.get_all_operations()}
    assert described == {f"{method} {path}" for method, path in ROUTES} | {f"GET {V1}/watch"}


def test_exactly_what_can_be_sent_again_takes_an_idempotency_key(app: Application) -> None:
    described = app.client.get("/api/docs/openapi.json").json()["paths"]
    operations = {(verb.upper(), path): one for path, verbs in described.items() for verb, one in verbs.items()}
    takes = {
        route
        for route, operation in operations.items()
        if ("header", "Idempotency-Key") in {(one["in"], one["name"]) for one in operation.get("parameters", [])}
    }
    again = {route for route, rule in RULES.items() if rule.action is not None and rule.repeatable}
    assert takes == again & set(operations)
    assert takes
