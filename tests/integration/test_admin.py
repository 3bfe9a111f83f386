"""``POST /tasks``: a submission over HTTP, for those who have the token."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from pipeline.admin import AdminRoutes, TasksView
from pipeline.bootstrap import open_submitter
from pipeline.ingress.app import serve
from pipeline.ingress.health import health_routes
from pipeline.ledger.jobs import JobId
from tests.file_server import silent
from tests.submission import Surroundings, surroundings
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "an-admin-token-of-some-length"


@dataclass(frozen=True, slots=True)
class Admin:
    around: Surroundings
    session: aiohttp.ClientSession

    async def post(
        self,
        content: object,
        *,
        path: str = "/tasks",
        method: str = "POST",
        **headers: str,
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Ask; give status, document and headers."""
        sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        async with self.session.request(
            method, path, data=body, headers=sent
        ) as response:
            document = orjson.loads(await response.read())
            if response.status >= 400:
                assert "application/problem+json" == response.content_type
                assert response.status == document["status"]
                assert {"type", "title", "detail", "code"} < document.keys()
            return response.status, document, dict(response.headers)

    async def refused(self, content: object, **changes: Any) -> tuple[int, str]:
        """Ask for what is refused; give status and code."""
        status, document, _ = await self.post(content, **changes)
        return status, document["code"]


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[Admin]:
    options = changes.pop("provider", {})
    async with surroundings(folder, **options) as around:
        given = {"admin.port": 0, "admin.tokens": [KEY], **changes}
        settings = around.settings(**given)
        async with open_submitter(settings) as submitter:
            view = TasksView(submitter, settings.admin)
            serving = serve(
                AdminRoutes(health_routes({}), view),
                host="127.0.0.1",
                port=0,
                max_body_bytes=int(settings.admin.max_body_bytes),
            )
            async with serving as (host, port):
                base = f"http://{host}:{port}"
                async with aiohttp.ClientSession(base) as session:
                    yield Admin(around, session)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    """The service, and a provider behind it."""
    async with running(tmp_path) as started:
        yield started


async def test_task_is_created(admin: Admin) -> None:
    content = admin.around.fields(operation="upload-extend")

    status, document, _ = await admin.post(content)

    assert 201 == status
    assert ("upload-extend", True) == (document["operation"], document["is_expected"])
    assert admin.around.provider.details(document["task_id"]) is not None
    assert [admin.around.link] == [*document["source_seconds"]]


async def test_dry_run_creates_nothing(admin: Admin) -> None:
    before = admin.around.provider.credits

    status, document, _ = await admin.post(
        admin.around.fields(), path="/tasks?dry_run=true"
    )

    assert (200, True) == (status, document["dry_run"])
    assert before == admin.around.provider.credits


async def test_every_mistake_is_a_member_of_the_problem(admin: Admin) -> None:
    fields = admin.around.fields(continueAt=500, vocalGender="x", source_file="/etc/x")

    status, document, _ = await admin.post(fields)

    assert (422, "invalid_submission") == (status, document["code"])
    named = {mistake["field"] for mistake in document["mistakes"]}
    # A caller from outside names no files of this machine.
    assert {"continueAt", "vocalGender", "sourceFile"} == named


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong-token-of-some-length", f"Basic {KEY}", f"Bearer{KEY}"],
)
async def test_without_the_token_nothing_is_looked_at(
    admin: Admin, authorization: str
) -> None:
    status, document, headers = await admin.post(
        b"no JSON", Authorization=authorization
    )

    assert (401, "unauthorised") == (status, document["code"])
    assert "Bearer" == headers["WWW-Authenticate"]


async def test_scheme_is_read_without_regard_to_case(admin: Admin) -> None:
    status, _, _ = await admin.post(
        admin.around.fields(), path="/tasks?dry_run=1", Authorization=f"bearer {KEY}"
    )

    assert 200 == status


@pytest.mark.parametrize(
    ("content", "changes", "expected"),
    [
        (b"{", {}, (400, "unreadable")),
        (b"[]", {}, (400, "unreadable")),
        (b"[" * 5000, {}, (400, "unreadable")),
        (b"\xff", {}, (400, "unreadable")),
        ({}, {"Content_Type": "text/plain"}, (415, "unsupported_media_type")),
        ({}, {"path": "/task"}, (404, "not_found")),
        ({}, {"path": "/callbacks/wav"}, (404, "not_found")),
        ({}, {"method": "PUT"}, (405, "method_not_allowed")),
        ({"operation": "tango"}, {}, (422, "invalid_submission")),
        (b'{"x": "%s"}' % (b"x" * 300_000), {}, (413, "body_too_large")),
    ],
)
async def test_what_is_no_submission_is_refused(
    admin: Admin, content: object, changes: dict[str, str], expected: tuple[int, str]
) -> None:
    assert expected == await admin.refused(content, **changes)


async def test_provider_that_says_no_is_told_with_its_code(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        admin.around.provider.credits = 0

        status, document, _ = await admin.post(admin.around.fields())

    assert (502, "account_refused") == (status, document["code"])
    assert 429 == document["provider_code"]


async def test_provider_that_is_away_is_told(tmp_path: Path) -> None:
    away = {"provider.base_url": "http://127.0.0.1:9"}
    async with running(tmp_path, **away) as admin:
        expected = (503, "provider_unavailable")

        assert expected == await admin.refused(admin.around.fields())


async def test_outcome_that_is_unknown_is_told_as_that(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        files = admin.around.files
        files.add("/api/v1/generate/upload-extend", silent())
        changes = {"provider.base_url": files.url(""), "submit.timeout": "200ms"}
        async with running(tmp_path, **changes) as other:
            found = await other.refused(admin.around.fields())

    assert (504, "outcome_unknown") == found


async def test_no_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    limits = {"admin.max_requests": 1, "submit.source_timeout": "3s"}
    async with running(tmp_path, **limits) as admin:
        slow = admin.around.files.add("/slow.wav", silent())
        waiting = asyncio.create_task(admin.post(admin.around.fields(uploadUrl=slow)))

        async def is_inside() -> bool:
            return bool(admin.around.files.requests)

        await eventually(is_inside)
        status, document, headers = await admin.post(admin.around.fields())
        waiting.cancel()
        await asyncio.wait({waiting})

    assert (503, "too_busy") == (status, document["code"])
    assert "2" == headers["Retry-After"]


async def test_health_is_told_without_the_token(admin: Admin) -> None:
    async with admin.session.get("/healthz") as response:
        assert 200 == response.status


async def test_same_key_and_request_have_the_same_answer_and_one_task(
    admin: Admin,
) -> None:
    """In quotes or not, whatever the order of fields, and with nothing fetched."""
    before = admin.around.provider.credits
    fields = admin.around.fields(operation="upload-extend")
    turned = dict(reversed(fields.items()))

    first, created, sent = await admin.post(fields, Idempotency_Key="order-7")
    fetched = len(admin.around.files.requests)
    again = [
        await admin.post(turned, Idempotency_Key=key)
        for key in ("order-7", '"order-7"')
    ]

    assert 201 == first
    assert "order-7" == created["job_id"]
    assert "Idempotency-Replayed" not in sent
    for status, document, headers in again:
        assert (201, created) == (status, document)
        assert "true" == headers["Idempotency-Replayed"]
    assert fetched == len(admin.around.files.requests)
    assert 1 == before - admin.around.provider.credits


async def test_key_is_shared_by_all_processes_on_one_ledger(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        settings = admin.around.settings(**{"admin.port": 0, "admin.tokens": [KEY]})
        fields, before = admin.around.fields(), admin.around.provider.credits
        async with open_submitter(settings) as other:
            found = await other.check("upload-extend", fields)
            submitted = await other.submit(found, job_id=JobId("order-7"))

        status, document, _ = await admin.post(fields, Idempotency_Key="order-7")

    assert (201, submitted.task_id) == (status, document["task_id"])
    assert 1 == before - admin.around.provider.credits


async def test_same_key_with_another_request_is_refused(admin: Admin) -> None:
    before = admin.around.provider.credits
    await admin.post(admin.around.fields(), Idempotency_Key="order-7")

    other = admin.around.fields(continueAt=0.25)
    refused = await admin.refused(other, Idempotency_Key="order-7")

    assert (422, "idempotency_key_reused") == refused
    assert 1 == before - admin.around.provider.credits


async def test_key_in_use_at_this_moment_is_refused_for_the_moment(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as admin:
        files = admin.around.files
        path = "/api/v1/generate/upload-extend"
        files.add(path, silent())
        changes = {"provider.base_url": files.url(""), "submit.timeout": "1m"}
        async with running(tmp_path, **changes) as other:
            fields = admin.around.fields()
            sending = asyncio.create_task(other.post(fields, Idempotency_Key="order-7"))

            async def is_sent() -> bool:
                return any(path == one.target for one in files.requests)

            await eventually(is_sent)
            status, document, headers = await admin.post(
                fields, Idempotency_Key="order-7"
            )
            sending.cancel()
            await asyncio.wait({sending})

    assert (409, "in_progress") == (status, document["code"])
    assert "order-7" == document["job_id"]
    assert "2" == headers["Retry-After"]


async def test_key_of_an_outcome_that_is_unknown_sends_nothing_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as admin:
        files = admin.around.files
        path = "/api/v1/generate/upload-extend"
        files.add(path, silent())
        changes = {"provider.base_url": files.url(""), "submit.timeout": "200ms"}
        async with running(tmp_path, **changes) as other:
            fields = admin.around.fields()
            found = [
                await other.refused(fields, Idempotency_Key="order-7") for _ in range(2)
            ]

    assert [(504, "outcome_unknown")] * 2 == found
    assert 1 == sum(path == one.target for one in files.requests)


async def test_key_of_a_refusal_is_free(admin: Admin) -> None:
    """Nothing was made, so it may be given again, with another request as well."""
    admin.around.provider.credits = 0
    first = await admin.refused(admin.around.fields(), Idempotency_Key="order-7")
    admin.around.provider.credits = 1

    status, document, headers = await admin.post(
        admin.around.fields(continueAt=0.25), Idempotency_Key="order-7"
    )

    assert (502, "account_refused") == first
    assert (201, "order-7") == (status, document["job_id"])
    assert "Idempotency-Replayed" not in headers


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 201, "\u00e4"])
async def test_key_that_is_none_is_refused(admin: Admin, key: str) -> None:
    refused = await admin.refused(admin.around.fields(), Idempotency_Key=key)

    assert (400, "invalid_idempotency_key") == refused


async def test_dry_run_takes_no_key(admin: Admin) -> None:
    for _ in range(2):
        status, _, _ = await admin.post(
            admin.around.fields(), path="/tasks?dry_run=1", Idempotency_Key="order-7"
        )
        assert 200 == status

    status, _, headers = await admin.post(
        admin.around.fields(), Idempotency_Key="order-7"
    )

    assert 201 == status
    assert "Idempotency-Replayed" not in headers


async def test_nothing_is_sent_while_the_ledger_is_away(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        before = admin.around.provider.credits
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
            ledger.execute("ALTER TABLE jobs RENAME TO taken_away")

        found = [
            await admin.post(admin.around.fields(), **headers)
            for headers in ({}, {"Idempotency_Key": "order-7"})
        ]

    for status, document, headers in found:
        assert (503, "ledger_unavailable") == (status, document["code"])
        assert "5" == headers["Retry-After"]
    assert before == admin.around.provider.credits
