"""The contract as documents, made from the code, for `docs/contract/`: JSON Schemas, AsyncAPI, codes, log fields."""

import json
from typing import Any, Final

import msgspec

from schemas.asyncapi import asyncapi_document
from schemas.errors import CODES
from schemas.log_lines import FIELDS
from schemas.manifest import Manifest
from schemas.messages import MESSAGE_TYPES, Message

_ALWAYS_WRITTEN: Final = "schema"


def contract_documents() -> dict[str, str]:
    """File name below `docs/contract/` to its text."""
    documents = {f"{kind}.schema.json": _message_schema(kind, type_) for kind, type_ in MESSAGE_TYPES.items()}
    documents["manifest.schema.json"] = _as_text("manifest", msgspec.json.schema(Manifest))
    documents["errors.md"] = _error_table()
    documents["asyncapi.json"] = json.dumps(asyncapi_document(), indent=2, ensure_ascii=False) + "\n"
    documents["log-fields.md"] = _field_table()
    return documents


def _message_schema(kind: str, type_: type[Message]) -> str:
    schema = msgspec.json.schema(type_)
    # readers insist on `schema`, though constructing a message in code fills it in
    definition = schema["$defs"][type_.__name__]
    definition["required"] = [_ALWAYS_WRITTEN, *definition.get("required", [])]
    return _as_text(kind, schema)


def _as_text(name: str, schema: dict[str, Any]) -> str:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name}
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def _error_table() -> str:
    rows = "\n".join(f"| `{code}` | {meaning} |" for code, meaning in CODES.items())
    return (
        "# Error codes\n\n"
        "`error.code` of an update event, and what the command line and the HTTP API answer with. A code is never\n"
        "renamed; readers take codes that they do not know.\n\n"
        f"| code | meaning |\n| --- | --- |\n{rows}\n"
    )


def _field_table() -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in FIELDS.items())
    return (
        "# Fields of log lines\n\n"
        "With `--log-format json` controller and agent write one JSON object a line, with some of these fields and no\n"
        "others. `at`, `level` and `action` are always there. A field may be added, never given another meaning.\n\n"
        f"| field | says |\n| --- | --- |\n{rows}\n"
    )
