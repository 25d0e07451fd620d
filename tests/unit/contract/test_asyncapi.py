"""The contract as AsyncAPI: valid by AsyncAPI's own validator, and true of every topic."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.asyncapi import asyncapi_document, channels
from schemas.messages import MESSAGE_TYPES
from schemas.topics import DEFAULT_ROOT, DEVICE_TOPICS, ControllerTopic, DeviceTopic, ReleaseTopic, Topics

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "contract" / "asyncapi.json"
VALIDATOR = Path(sys.prefix) / "asyncapi"
BOUND_S = 100


def validate(document: Path) -> "subprocess.CompletedProcess[str]":
    """Run the validator that `.ci/setup.sh validator` installs."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, for AsyncAPI's own validator")
    assert (VALIDATOR / "node_modules").is_dir(), "the validator is missing: run .ci/setup.sh validator"
    command = ["node", "validate.mjs", str(document)]
    return subprocess.run(command, cwd=VALIDATOR, capture_output=True, text=True, timeout=BOUND_S, check=False)


def test_the_validator_of_asyncapi_finds_nothing_wrong() -> None:
    told = validate(DOCUMENT)
    assert told.returncode == 0, told.stdout + told.stderr
    assert not [line for line in told.stdout.splitlines() if not line.startswith("Information asyncapi-latest-version")]


def test_the_validator_would_find_what_is_wrong(tmp_path: Path) -> None:
    spoilt = asyncapi_document()
    spoilt["operations"]["announceRelease"]["channel"] = {"$ref": "#/channels/nowhere"}
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(spoilt))
    told = validate(path)
    assert told.returncode == 1
    assert "announceRelease" in told.stdout


@pytest.mark.parametrize("root", [DEFAULT_ROOT, "site/device/channel/v1"])
def test_every_topic_of_the_code_is_described_once_and_parses_back(root: str) -> None:
    topics = Topics(root)
    names = {"channel": "beta", "package": "tacho", "device": "pi-1"}
    parsed = [topics.parse(one.address.format(**names)) for one in channels(topics).values()]
    assert parsed.count(ReleaseTopic(channel="beta", package="tacho")) == 1
    assert parsed.count(ControllerTopic()) == 1
    assert [one for one in parsed if isinstance(one, DeviceTopic) and one.device != "pi-1"] == []
    assert sorted(one.kind for one in parsed if isinstance(one, DeviceTopic)) == sorted(DEVICE_TOPICS)


def test_every_message_is_on_some_topic_and_has_the_schema_that_readers_keep_to() -> None:
    document = asyncapi_document()
    assert {one.kind for one in channels(Topics()).values()} == set(MESSAGE_TYPES)
    for kind, type_ in MESSAGE_TYPES.items():
        alone = json.loads((DOCUMENT.parent / f"{kind}.schema.json").read_text())["$defs"][type_.__name__]
        inside = document["components"]["schemas"][type_.__name__]
        assert json.loads(re.sub("#/components/schemas/", "#/$defs/", json.dumps(inside))) == alone
