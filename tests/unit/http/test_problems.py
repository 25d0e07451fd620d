"""Each error has the status that its kind asks for, and one line."""

import pytest

from controller.http.problems import problem, status_of
from schemas.errors import (
    CODES,
    ContractError,
    DeviceError,
    FlotillaError,
    NetworkError,
    OperatorError,
    PublisherError,
    TrustError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperatorError("auth.refused", "x"), 401),
        (PublisherError("release.unknown", "x"), 404),
        (OperatorError("rollout.unknown", "x"), 404),
        (OperatorError("device.unknown", "x"), 404),
        (PublisherError("release.exists", "x"), 409),
        (PublisherError("release.in_use", "x"), 409),
        (OperatorError("rollout.state", "x"), 409),
        (TrustError("trust.keys", "x"), 409),
        (PublisherError("package.limit", "x"), 413),
        (PublisherError("package.format", "x"), 422),
        (PublisherError("package.path", "x"), 422),
        (PublisherError("manifest.bad", "x"), 422),
        (PublisherError("version.bad", "x"), 422),
        (PublisherError("version.range", "x"), 422),
        (OperatorError("input.bad", "x"), 400),
        (ContractError("message.size", "x"), 400),
        (OperatorError("data.bad", "x"), 500),
        (NetworkError("broker.unreachable", "x"), 503),
        (OperatorError("disk.full", "x"), 507),
        (DeviceError("disk.io", "x"), 507),
    ],
)
def test_an_error_has_the_status_of_its_kind(error: FlotillaError, status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize("code", ["trust.metadata", "trust.unsigned", "trust.expired", "trust.root"])
def test_a_repository_that_does_not_vouch_for_itself_is_the_controller_s_fault(code: str) -> None:
    assert status_of(TrustError(code, "x")) == 500


def test_no_code_is_without_a_status() -> None:
    for code in CODES:
        assert 400 <= status_of(FlotillaError(code, "x")) < 600


def test_a_detail_is_one_line_of_bounded_length() -> None:
    answer = problem(400, detail="first\nsecond\x00\x1b[31m " + "x" * 5000, code="input.bad")
    detail = answer.content["detail"]
    assert detail.startswith("first second??[31m ")
    assert len(detail) <= 1000
    assert answer.content["title"] == "Bad Request"
    assert answer.media_type == "application/problem+json"
    assert "www-authenticate" not in {name.lower() for name in answer.headers}


def test_a_refused_token_says_what_is_asked_for() -> None:
    answer = problem(401, detail="d", code="auth.refused", headers={"X-Other": "kept"})
    assert (answer.headers["WWW-Authenticate"], answer.headers["X-Other"]) == ("Bearer", "kept")
