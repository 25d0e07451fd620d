"""The API's description and its page."""

import pytest

from tests.support.controller import ControllerProcess

pytestmark = pytest.mark.broker


def test_the_description_lists_every_route(controller: ControllerProcess) -> None:
    described = controller.call("GET", "/api/docs/openapi.json").json()
    routes = {f"{verb.upper()} {path}" for path, verbs in described["paths"].items() for verb in verbs}
    assert routes == {
        "DELETE /api/v1/devices/{device_id}",
        "DELETE /api/v1/channels/{channel}/releases/{name}",
        "GET /api/v1/controller",
        "GET /api/v1/devices",
        "GET /api/v1/devices/{device_id}",
        "GET /api/v1/devices/{device_id}/commands",
        "POST /api/v1/devices/{device_id}/commands",
        "GET /api/v1/devices/{device_id}/desired",
        "PUT /api/v1/devices/{device_id}/desired",
        "GET /api/v1/devices/{device_id}/events",
        "GET /api/v1/fleet",
        "GET /api/v1/packages",
        "POST /api/v1/packages",
        "GET /api/v1/packages/{name}/compare",
        "GET /api/v1/packages/{name}/{version}",
        "DELETE /api/v1/packages/{name}/{version}",
        "GET /api/v1/packages/{name}/{version}/bundles",
        "POST /api/v1/packages/{name}/{version}/bundles",
        "GET /api/v1/packages/{name}/{version}/export",
        "POST /api/v1/packages/{name}/{version}/export",
        "POST /api/v1/packages/{name}/{version}/yank",
        "POST /api/v1/packages/import",
        "POST /api/v1/packages/retire",
        "POST /api/v1/packages/site",
        "POST /api/v1/releases",
        "POST /api/v1/releases/preflight",
        "POST /api/v1/releases/sets",
        "GET /api/v1/rollouts",
        "GET /api/v1/rollouts/{rollout_id}",
        "GET /api/v1/rollouts/{rollout_id}/devices",
        "POST /api/v1/rollouts/{rollout_id}/state",
        "POST /api/v1/rollouts/{rollout_id}/approve",
        "POST /api/v1/rollouts/{rollout_id}/cancel",
        "POST /api/v1/rollouts/{rollout_id}/retry",
        "GET /api/v1/root",
        "GET /api/v1/statistics",
        "GET /api/v1/watch",
        "GET /api/v1/session",
        "POST /api/v1/session",
        "DELETE /api/v1/session",
        "PUT /api/v1/session/password",
        "GET /api/v1/users",
        "POST /api/v1/users",
        "DELETE /api/v1/users/{name}",
        "PUT /api/v1/users/{name}/password",
        "PUT /api/v1/users/{name}/role",
        "GET /api/v1/tokens",
        "POST /api/v1/tokens",
        "DELETE /api/v1/tokens/{name}",
        "GET /api/v1/audit",
    }
    upload = described["paths"]["/api/v1/packages"]["post"]["requestBody"]["content"]
    assert list(upload) == ["application/octet-stream"]


def test_the_description_says_what_errors_look_like(controller: ControllerProcess) -> None:
    described = controller.call("GET", "/api/docs/openapi.json").json()
    problem = controller.get("/packages/nothing/1.0.0").json()
    assert set(described["components"]["schemas"]["Problem"]["properties"]) == set(problem)
    for path, verbs in described["paths"].items():
        for verb, operation in verbs.items():
            assert "400" not in operation["responses"], (verb, path)
            content = operation["responses"]["default"]["content"]
            assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            assert operation["summary"], (verb, path)


def test_the_page_needs_nothing_from_elsewhere(controller: ControllerProcess) -> None:
    page = controller.call("GET", "/api/docs")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    text = page.body.decode()
    assert "http:" not in text
    assert "https:" not in text
    assert "//" not in text.replace("</", "").replace("///", "")
    assert "/api/docs/openapi.json" in text
    assert controller.call("GET", "/api/docs/").status == 200
