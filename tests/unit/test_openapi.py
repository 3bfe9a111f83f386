"""The description of the ingress is valid, and says all that the code can answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from pipeline.ingress.openapi import describe
from pipeline.ingress.refusals import REFUSAL_KINDS
from pipeline.provider.callback import OPERATIONS
from pipeline.provider.signature import Scheme
from pipeline.settings import IngressSettings
from tests import docs_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "sesame-open-the-door"
CALLBACK_PATHS = ("/callbacks/{operation}", "/callbacks/{operation}/{token}")
STATE_PATHS = ("/healthz", "/readyz", "/metrics", "/openapi.json")


def described(**settings: object) -> dict[str, Any]:
    """Describe the ingress, as it goes over the wire."""
    made = describe(IngressSettings.model_validate(settings))
    return dict(orjson.loads(orjson.dumps(made)))


def parts_of(part: object) -> Iterator[dict[str, Any]]:
    """Give every object in a description."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from parts_of(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from parts_of(inner)


def resolved(document: dict[str, Any], reference: str) -> Any:
    """Follow a reference."""
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def refused(document: dict[str, Any], path: str, method: str) -> set[tuple[int, str]]:
    """Give status and code of every refusal that is described for an operation."""
    found = set()
    for status, response in document["paths"][path][method]["responses"].items():
        if "$ref" in response:
            answer = resolved(document, response["$ref"])
            schema = answer["content"]["application/problem+json"]["schema"]
            assert int(status) == schema["properties"]["status"]["const"]
            codes = schema["properties"]["code"]["enum"]
            found |= {(int(status), code) for code in codes}
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokens": [TOKEN]},
        {"operation_tokens": {"wav": [TOKEN]}},
        *({"signature": {"keys": [TOKEN], "scheme": scheme}} for scheme in Scheme),
        {"tokens": [TOKEN], "signature": {"keys": [TOKEN]}},
    ],
)
def test_description_is_openapi_3_1(settings: dict[str, Any]) -> None:
    """By the schema of OpenAPI, and its schemas by that of JSON Schema 2020-12."""
    document = described(**settings)

    jsonschema_rs.validator_for(OPENAPI_31).validate(document)

    assert document["openapi"].startswith("3.1.")
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )
    for part in parts_of(document):
        if "$ref" in part:
            assert resolved(document, part["$ref"])


def test_mistake_in_a_description_is_found() -> None:
    """The schema of OpenAPI that it is held against is the real one."""
    document = described()
    del document["paths"]["/callbacks/{operation}"]["post"]["responses"]["200"][
        "description"
    ]

    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(OPENAPI_31).validate(document)


def test_table_of_refusals_has_every_refusal_of_the_code() -> None:
    """Read from the code by the check of the documents, which compares the contract."""
    table = [(str(kind.status), kind.code) for kind in REFUSAL_KINDS]

    assert sorted(docs_facts.problems()) == sorted(table)
    assert all(kind.when for kind in REFUSAL_KINDS)


def test_every_refusal_is_described_where_it_can_be_the_answer() -> None:
    document = described()
    real = {(int(status), code) for status, code in docs_facts.problems()}

    for path in CALLBACK_PATHS:
        assert real - {(404, "not_found")} == refused(document, path, "post")
    for path in STATE_PATHS:
        for method in ("get", "head"):
            assert {
                (400, "malformed"),
                (404, "not_found"),
                (405, "method_not_allowed"),
                (500, "internal_error"),
            } == refused(document, path, method)


@pytest.mark.parametrize(
    ("status", "header"), [(405, "Allow"), (429, "Retry-After"), (503, "Retry-After")]
)
def test_headers_that_go_with_a_refusal_are_described(status: int, header: str) -> None:
    response = described()["components"]["responses"][f"callback-{status}"]

    assert [header] == list(response["headers"])


def test_every_operation_is_described() -> None:
    document = described()

    for path in CALLBACK_PATHS:
        operation = document["paths"][path]["parameters"][0]
        assert sorted(OPERATIONS) == operation["schema"]["enum"]


@pytest.mark.parametrize(
    ("settings", "in_query", "in_path"),
    [
        ({}, [], []),
        ({"tokens": [TOKEN]}, ["token"], []),
        (
            {"signature": {"keys": [TOKEN]}},
            ["X-Webhook-Signature", "X-Webhook-Timestamp"],
            ["X-Webhook-Signature", "X-Webhook-Timestamp"],
        ),
        (
            {"signature": {"keys": [TOKEN], "scheme": "body"}, "tokens": [TOKEN]},
            ["token", "X-Signature"],
            ["X-Signature"],
        ),
    ],
)
def test_proof_that_is_asked_for_is_described(
    settings: dict[str, Any], in_query: list[str], in_path: list[str]
) -> None:
    """All of it is needed; a token may be in the path instead of the query."""
    document = described(**settings)
    schemes = document["components"]["securitySchemes"]

    for path, expected in zip(CALLBACK_PATHS, (in_query, in_path), strict=True):
        asked = document["paths"][path]["post"]["security"]
        assert ([expected] if expected else []) == [
            [schemes[name]["name"] for name in one] for one in asked
        ]
    assert TOKEN not in orjson.dumps(document).decode()
