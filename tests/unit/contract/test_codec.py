"""The vectors of accepted and rejected payloads, which other implementations can use too."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from schemas.codec import MAX_PAYLOAD, decode, decode_retained, encode
from schemas.documents import contract_documents
from schemas.errors import CODES, ContractError
from schemas.messages import MESSAGE_TYPES, Desired, MessageKind

VECTORS = Path(__file__).parents[2] / "vectors" / "messages"
CASES = {kind: json.loads((VECTORS / f"{kind}.json").read_text()) for kind in MESSAGE_TYPES}


def cases(verdict: str) -> list[object]:
    return [
        pytest.param(kind, case, id=f"{kind}: {case['name']}")
        for kind in MESSAGE_TYPES
        for case in CASES[kind][verdict]
    ]


def payload_of(case: dict[str, object]) -> bytes:
    text = case["text"] if "text" in case else json.dumps(case["payload"])
    return b" " * int(str(case.get("padding", 0))) + str(text).encode()


@pytest.mark.parametrize(("kind", "case"), cases("accepted"))
def test_accepted_payloads_survive_a_round_trip(kind: MessageKind, case: dict[str, object]) -> None:
    type_ = MESSAGE_TYPES[kind]
    message = decode(payload_of(case), type_)
    assert decode(encode(message), type_) == message
    # what was written is still there, but for fields that this version does not know
    written = json.loads(encode(message))
    sent = case["payload"]
    assert isinstance(sent, dict)
    assert all(key in written for key in sent if key != "later")


@pytest.mark.parametrize(("kind", "case"), cases("rejected"))
def test_rejected_payloads_give_their_one_line(kind: MessageKind, case: dict[str, object]) -> None:
    with pytest.raises(ContractError) as caught:
        decode(payload_of(case), MESSAGE_TYPES[kind])
    assert (caught.value.code, str(caught.value)) == (case["code"], case["line"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "case"), cases("accepted"))
def test_the_json_schemas_accept_what_the_code_accepts(kind: MessageKind, case: dict[str, object]) -> None:
    schema = json.loads(contract_documents()[f"{kind}.schema.json"])
    jsonschema.Draft202012Validator(schema).validate(case["payload"])


@pytest.mark.parametrize(("kind", "case"), cases("rejected"))
def test_the_json_schemas_reject_what_the_code_rejects(kind: MessageKind, case: dict[str, object]) -> None:
    schema = json.loads(contract_documents()[f"{kind}.schema.json"])
    only_the_code_can_tell = case["code"] != "message.json" or "text" in case or "a time" in str(case["name"])
    valid = "payload" in case and jsonschema.Draft202012Validator(schema).is_valid(case["payload"])
    assert only_the_code_can_tell or not valid


def test_a_payload_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ContractError, match="utf-8"):
        decode(b'{"schema":1,"rev":1,"channel":"\xff"}', Desired)


def test_an_empty_retained_payload_is_a_tombstone() -> None:
    assert decode_retained(b"", Desired) is None
    assert decode_retained(b'{"schema":1,"rev":4}', Desired) == Desired(rev=4)


def test_a_message_over_the_limit_is_not_sent() -> None:
    huge = Desired(
        rev=1,
        pins={f"package-{n}": "1.0.0" + "-x" * 120 for n in range(256)},
        tags={f"t{n}": "v" * 256 for n in range(64)},
    )
    bloated = msgspec.structs.replace(huge, tags={f"t{n}": "v" * MAX_PAYLOAD for n in range(2)})
    assert encode(huge)
    with pytest.raises(ContractError, match="over") as caught:
        encode(bloated)
    assert caught.value.code == "message.size"


def test_every_code_is_of_the_form_that_events_carry() -> None:
    pattern = json.loads(contract_documents()["update-event.schema.json"])["$defs"]["ErrorReport"]["properties"][
        "code"
    ]["pattern"]
    for code in CODES:
        jsonschema.validate(code, {"type": "string", "pattern": pattern})
