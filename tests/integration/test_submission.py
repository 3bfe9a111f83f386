"""From a request to an expected task: checked first, paid for once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import failpoints
from pipeline.bootstrap import (
    callback_address_of,
    ledger_of,
    open_checker,
    open_submitter,
    provider_of,
)
from pipeline.errors import (
    ConfigurationError,
    ProviderRefused,
    ProviderUnavailable,
    SubmissionInvalid,
)
from pipeline.settings import load_settings
from pipeline.submission.batch import Batch
from pipeline.submission.journal import Journal, State
from pipeline.submission.lines import read_lines
from pipeline.submission.source import check_link
from tests.file_server import answer, silent
from tests.submission import SOURCE_SECONDS, TOKEN, Surroundings, surroundings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pipeline.submission.batch import Report

BASE = "https://hooks.example.com"


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    """A provider and source audio."""
    async with surroundings(tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm({})


async def wrong(around: Surroundings, fields: dict[str, Any], **changes: object) -> str:
    async with open_checker(around.settings(**changes)) as checker:
        checked = await checker.check("upload-extend", fields)
    with pytest.raises(SubmissionInvalid) as caught:
        checked.good()
    return str(caught.value)


async def test_task_is_accepted_and_expected(around: Surroundings) -> None:
    settings = around.settings()

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        submitted = await submitter.submit(checked, job_id="song-7")
    async with ledger_of(settings) as ledger:
        expected = await ledger.find_expected(submitted.task_id)

    assert {around.link: pytest.approx(SOURCE_SECONDS, abs=0.1)} == checked.lengths
    assert f"http://127.0.0.1:9/callbacks/upload-extend/{TOKEN}" == checked.callback_url
    assert around.provider.details(submitted.task_id) is not None
    assert submitted.is_expected
    assert expected is not None
    assert ("song-7", 0) == (expected.job_id, expected.questions)
    assert expected.due_at is not None


async def test_mistakes_are_named_at_once_and_nothing_is_paid(
    around: Surroundings,
) -> None:
    """Those of fields, of the source and of the settings."""
    credits_before = around.provider.credits
    settings = around.settings(provider__callback_url=None)
    fields = around.fields(continueAt=100, title="x" * 101)

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", fields)
        with pytest.raises(SubmissionInvalid) as caught:
            await submitter.submit(checked)

    message = str(caught.value)
    for name in ("title", "style", "prompt", "continueAt", "callBackUrl"):
        assert f"\n  {name}: " in message
    assert credits_before == around.provider.credits


@pytest.mark.parametrize(
    ("path", "how", "expected"),
    [
        ("/gone.wav", answer(status=404), "the link has expired"),
        ("/text.wav", answer(b"<html>no song here"), "got text"),
        ("/noise.wav", answer(b"ID3\x04" + b"\x55" * 9000), "cannot be decoded"),
        ("/slow.wav", silent(), "expected"),
    ],
)
async def test_source_that_cannot_be_decoded_is_a_mistake(
    around: Surroundings, path: str, how: Any, expected: str
) -> None:
    link = around.files.add(path, how)

    found = await wrong(
        around, around.fields(uploadUrl=link), submit__source_timeout="500ms"
    )

    assert "uploadUrl: " in found
    assert expected in found


async def test_source_of_silence_is_a_mistake(around: Surroundings) -> None:
    size = 8000
    head = b"RIFF%sWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0"
    wav = head % (36 + size).to_bytes(4, "little")
    wav += b"data" + size.to_bytes(4, "little") + b"\x80" * size
    link = around.files.add("/silence.wav", answer(wav))

    assert "of silence" in await wrong(around, around.fields(uploadUrl=link))


async def test_source_longer_than_the_door_takes_is_a_mistake(
    around: Surroundings,
) -> None:
    short = {"sunoapi-org": {"limits": {"upload": {"default": "1s"}}}}

    found = await wrong(around, around.fields(), doors=short)

    assert "uploadUrl: expected audio of at most 1 s at the door sunoapi-org" in found


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("http://files.example.com/a.mp3", "expected an https link"),
        ("https://user:password@files.example.com/a.mp3", "without a user name"),
        ("https://127.0.0.1/a.mp3", "expected a public address"),
        ("https://localhost/a.mp3", "expected a public address"),
        ("https://[::1]/a.mp3", "expected a public address"),
        ("ftp://files.example.com/a.mp3", "expected an https link"),
        ("song.mp3", "expected"),
    ],
)
@pytest.mark.parametrize("check_source", [True, False])
async def test_link_must_be_public_and_https(
    around: Surroundings, link: str, expected: str, *, check_source: bool
) -> None:
    """Whether it is fetched or not."""
    found = await wrong(
        around,
        around.fields(uploadUrl=link),
        submit__allow_private_addresses=False,
        submit__check_source=check_source,
    )

    assert expected in found
    assert "password" not in found.replace("user name and password", "")
    assert [] == around.files.requests


@pytest.mark.parametrize(
    ("base", "is_good"),
    [
        ("https://hooks.example.com", True),
        ("https://203.0.112.9", True),
        ("https://10.1.2.3", False),
        ("https://[fd00::1]", False),
        ("https://localhost:8443", False),
        ("http://127.0.0.1:8080", False),
    ],
)
async def test_callback_address_must_be_public(
    around: Surroundings, base: str, *, is_good: bool
) -> None:
    """Or nothing would ever come of what was paid for."""
    changes = {"provider__callback_url": base, "submit__allow_private_addresses": False}

    async with open_checker(around.settings(**changes)) as checker:
        found = checker.check_fields("wav", {"taskId": "t-1", "audioId": "a-1"})

    named = [mistake.field for mistake in found.mistakes]
    assert ([] if is_good else ["callBackUrl"]) == named


async def test_host_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(Exception, match="name service knows"):
        await check_link(
            "https://nobody.invalid/a.mp3", private=False, within=timedelta(seconds=5)
        )


async def test_copy_on_this_machine_is_decoded_instead(
    around: Surroundings, tmp_path: Path
) -> None:
    copy = tmp_path / "noise.wav"
    copy.write_bytes(b"RIFF no wav at all")

    async with open_checker(around.settings()) as checker:
        bad = await checker.check("upload-extend", around.fields(), copy)
        missing = await checker.check(
            "upload-extend", around.fields(), tmp_path / "nowhere.wav"
        )

    assert ["uploadUrl"] == [mistake.field for mistake in bad.mistakes]
    assert "found none at" in str(missing.mistakes[0])
    assert [] == around.files.requests


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, f"{BASE}/callbacks/wav"),
        ({"ingress.tokens": [TOKEN]}, f"{BASE}/callbacks/wav/{TOKEN}"),
        (
            {"ingress.tokens": ["x" * 15 + "/?"]},
            f"{BASE}/callbacks/wav/{'x' * 15}%2F%3F",
        ),
        (
            {
                "ingress.tokens": [TOKEN],
                "ingress.operation_tokens": {"wav": [TOKEN[::-1]]},
            },
            f"{BASE}/callbacks/wav/{TOKEN[::-1]}",
        ),
    ],
)
def test_callback_address_has_operation_and_token(
    settings: dict[str, object], expected: str
) -> None:
    flags = {"provider.callback_url": f"{BASE}/"} | settings
    loaded = load_settings(environ={}, flags=flags).settings

    assert expected == callback_address_of(loaded, "wav")


def test_operation_that_the_ingress_is_closed_for_has_no_address() -> None:
    flags = {
        "provider.callback_url": BASE,
        "ingress.operation_tokens": {"wav": [TOKEN]},
    }
    loaded = load_settings(environ={}, flags=flags).settings

    with pytest.raises(ConfigurationError, match="a token for lyrics"):
        callback_address_of(loaded, "lyrics")


def test_who_has_no_public_address_is_told_what_to_set() -> None:
    """The provider insists on one, also where all is found out by asking."""
    settings = load_settings(environ={}, flags={}).settings
    with pytest.raises(ConfigurationError) as caught:
        callback_address_of(settings, "wav")
    way_out = "https://callbacks.invalid"

    assert f"for polling alone, set one that leads nowhere, such as {way_out}" in str(
        caught.value
    )
    flags = {"provider.callback_url": way_out}
    followed = load_settings(environ={}, flags=flags).settings
    assert f"{way_out}/callbacks/wav" == callback_address_of(followed, "wav")


async def test_task_is_submitted_though_the_ledger_is_lost(
    around: Surroundings,
) -> None:
    """It is paid for by then: nobody may think that it has failed."""
    settings = around.settings()
    async with (
        # Its turns are not the ledger's: that is lost after the turn was taken.
        provider_of(settings) as client,
        open_submitter(settings, client) as submitter,
    ):
        checked = await submitter.check("upload-extend", around.fields())
        await submitter._ledger.__aexit__(None, None, None)

        submitted = await submitter.submit(checked)

    assert not submitted.is_expected
    assert around.provider.details(submitted.task_id) is not None


async def test_nothing_is_submitted_while_the_ledger_is_lost(
    around: Surroundings,
) -> None:
    """Without a turn it could be one too many, and nothing is paid for yet."""
    async with open_submitter(around.settings()) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        await submitter._ledger.__aexit__(None, None, None)

        with pytest.raises(ProviderUnavailable, match="expected a turn"):
            await submitter.submit(checked)

    assert 0 == around.provider.calls("/api/v1/generate/upload-extend")


def write_batch(folder: Path, *rows: str) -> Path:
    path = folder / "songs.csv"
    head = "uploadUrl,model,continueAt,title"
    path.write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return path


async def run_batch(
    around: Surroundings, path: Path, *, stop_after: int = 0, **options: Any
) -> Report:
    """Submit a batch; with ``stop_after`` somebody stops it after so many lines."""
    stopping = asyncio.Event()
    changes = options.pop("changes", {})

    def on_progress(what: str, done: int, _: int) -> None:
        if what == "submitting" and done == stop_after:
            stopping.set()

    async with open_submitter(around.settings(**changes)) as submitter:
        with Journal.opened(path) as journal:
            batch = Batch(
                submitter,
                journal,
                on_progress=on_progress,
                stopping=stopping,
                **options,
            )
            return await batch.run(read_lines(path, operation="upload-extend"))


def states(report: Report) -> list[State]:
    return [entry.state for entry in report.entries]


async def test_batch_that_was_stopped_goes_on_behind_the_last_line(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, *[f"{around.link},V5,{n / 10}," for n in range(1, 5)])
    before = around.provider.credits

    first = await run_batch(around, path, stop_after=2)
    second = await run_batch(around, path)
    third = await run_batch(around, path)

    done, left = State.SUBMITTED, State.NOT_TRIED
    assert [done, done, left, left] == states(first)
    assert ([done] * 4, 2) == (states(second), second.earlier)
    assert third.entries == second.entries
    assert 4 == third.earlier
    assert third.is_good
    assert 4 == before - around.provider.credits


async def test_line_that_was_cut_off_is_unknown_and_not_sent_again_unasked(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, f"{around.link},V5,0.1,", f"{around.link},V5,0.2,")
    before = around.provider.credits
    failpoints.arm({failpoints.VARIABLE: "submit.before_note=raise"})
    with pytest.raises(failpoints.FailpointReached):
        await run_batch(around, path)
    failpoints.arm({})

    second = await run_batch(around, path)
    paid = before - around.provider.credits
    third = await run_batch(around, path, again=True)

    assert [State.UNKNOWN, State.SUBMITTED] == states(second)
    assert not second.is_good
    assert 2 == paid
    assert [State.SUBMITTED, State.SUBMITTED] == states(third)
    assert 3 == before - around.provider.credits


async def test_mistake_in_one_line_stops_all_unless_told_otherwise(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(
        tmp_path,
        f"{around.link},V5,0.1,",
        f"{around.link},V5,500,",
        "https://127.0.0.1:1/a.mp3,,x,",
    )
    before = around.provider.credits

    first = await run_batch(around, path)
    second = await run_batch(around, path, keep_going=True)

    wrong = [State.MISTAKEN] * 2
    assert [State.NOT_TRIED, *wrong] == states(first)
    assert [State.SUBMITTED, *wrong] == states(second)
    assert all(name in second.entries[2].reason for name in ("model", "continueAt"))
    assert 1 == before - around.provider.credits


async def test_account_that_is_empty_stops_the_batch(
    around: Surroundings, tmp_path: Path
) -> None:
    path = write_batch(tmp_path, *[f"{around.link},V5,{n / 10}," for n in range(1, 4)])
    around.provider.credits = 1

    first = await run_batch(around, path)
    around.provider.credits = 5
    second = await run_batch(around, path)

    assert [State.SUBMITTED, State.REFUSED, State.NOT_TRIED] == states(first)
    assert "code 429" in first.entries[1].reason
    assert [State.SUBMITTED] * 3 == states(second)


async def test_key_that_is_not_taken_is_the_operators_matter(
    around: Surroundings,
) -> None:
    settings = around.settings(provider__api_key="another")

    async with open_submitter(settings) as submitter:
        checked = await submitter.check("upload-extend", around.fields())
        with pytest.raises(ProviderRefused, match="code 401"):
            await submitter.submit(checked)
