"""The API's description against the API itself: what schemathesis makes of it, in the same order every time."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import FailureGroup, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from controller.http.rules import RULES
from tests.support.in_process import FILE_TOKEN, Application, application, bearer
from tests.support.repository import add_release

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with application(tmp_path_factory.mktemp("described")) as made:
        add_release(made.repository, "tacho", "1.0.0", {"a": "a"})
        yield made


@pytest.fixture(scope="module")
def api(app: Application) -> Any:
    made = schemathesis.openapi.from_asgi("/api/docs/openapi.json", app.litestar)
    # an endless stream; it has tests of its own
    return made.exclude(path="/api/v1/watch")


def check(operation: Any) -> str | None:
    """What is wrong with an operation, found by sending it what its description allows and what it does not."""

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        answer = case.call(headers=bearer(FILE_TOKEN))
        case.validate_response(answer, checks=CHECKS)

    try:
        send()
    except (Exception, FailureGroup) as error:  # noqa: BLE001 - whatever it is, it is told with the operation's name
        failures = error.exceptions if isinstance(error, FailureGroup) else [error]
        return "\n".join([f"{operation.label}: {error}", *(repr(failure) for failure in failures)])
    return None


@pytest.mark.long(44)
def test_whatever_is_sent_the_answer_is_one_that_is_described(api: Any) -> None:
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) > 30
    wrong = [found for found in map(check, operations) if found is not None]
    assert not wrong, "\n\n".join(wrong)


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
