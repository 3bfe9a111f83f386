"""What follows from an answer: hand it on, ask again, give up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.errors import (
    ConfigurationError,
    ProviderRefused,
    ProviderUnavailable,
    TaskNotFound,
)
from pipeline.ledger.expectations import Question
from pipeline.poller.rhythm import (
    LIFETIME,
    LONGEST_PAUSE,
    SETTLING,
    Outcome,
    Rhythm,
    Step,
    pause_after,
    refuse_unknown_operations,
    step,
)
from pipeline.provider.callback import normalise
from pipeline.settings import PollerSettings
from pipeline.task import Stage, event_id
from tests.callbacks import TASK, make_camel_item, make_record_info, make_update

if TYPE_CHECKING:
    from pipeline.errors import ProviderError
    from pipeline.task import TaskUpdate

INTERVAL: Final = timedelta(seconds=30)
RHYTHM: Final = Rhythm(interval=INTERVAL, give_up_after=timedelta(minutes=30))
YOUNG: Final = timedelta(minutes=5)
OLD: Final = timedelta(minutes=31)


def make_question(stage: Stage = Stage.UNKNOWN, **changes: Any) -> Question:
    values: dict[str, Any] = {
        "task_id": TASK,
        "operation": "upload-extend",
        "stage": stage,
        "age": YOUNG,
        "late": timedelta(0),
        "wait": timedelta(0),
        "number": 1,
        "answered": None,
    }
    return Question(**(values | changes))


def taken(question: Question, answer: TaskUpdate | ProviderError) -> Step:
    return step(question, answer, RHYTHM, chance=0.5)


def told(status: str, **data: Any) -> TaskUpdate:
    """Read what the details endpoint says."""
    return normalise(make_record_info(status, **data), "upload-extend")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (told("PENDING", response=None), Outcome.NOTHING_NEW),
        (told("TEXT_SUCCESS"), Outcome.NEWS),
        (told("FIRST_SUCCESS"), Outcome.NEWS),
        (told("SUCCESS"), Outcome.FINAL),
        (told("CREATE_TASK_FAILED", response=None), Outcome.FINAL),
        (told("GENERATE_AUDIO_FAILED", response=None), Outcome.FINAL),
        (told("SENSITIVE_WORD_ERROR", response=None), Outcome.FINAL),
        (told("FAILED", response=None), Outcome.FINAL),
        (told("CALLBACK_EXCEPTION"), Outcome.FINAL),
        # Delivery has failed, and the music is not there yet.
        (told("CALLBACK_EXCEPTION", response=None), Outcome.NOTHING_NEW),
        (
            told(
                "CALLBACK_EXCEPTION",
                response={"sunoData": [{**make_camel_item(), "audioUrl": ""}]},
            ),
            Outcome.NOTHING_NEW,
        ),
        # Complete, it says, but there is nothing to be had.
        (told("SUCCESS", response={"sunoData": []}), Outcome.NOTHING_NEW),
        (told("SUCCESS", response=None), Outcome.NOTHING_NEW),
        # Seen live: it stays so for minutes, although it has failed.
        (told("PENDING", errorCode=413, errorMessage="exists"), Outcome.FINAL),
        (told("PENDING", errorCode=0), Outcome.NOTHING_NEW),
        (told("GENERATING"), Outcome.NOTHING_NEW),
    ],
    ids=lambda value: value.unknown_reason if hasattr(value, "stage") else value,
)
def test_every_status_of_the_details_endpoint(
    answer: TaskUpdate, outcome: Outcome
) -> None:
    found = taken(make_question(), answer)

    assert outcome is found.outcome
    is_handed_on = outcome in (Outcome.NEWS, Outcome.FINAL)
    assert (event_id(answer) if is_handed_on else None) == found.event
    assert (SETTLING if outcome is Outcome.FINAL else INTERVAL) == found.next_in
    assert not found.gives_up


@pytest.mark.parametrize("known", [Stage.TEXT, Stage.FIRST])
def test_what_a_callback_has_told_is_no_news(known: Stage) -> None:
    found = taken(make_question(known), told("TEXT_SUCCESS"))

    assert (Outcome.NOTHING_NEW, None) == (found.outcome, found.event)


def test_what_was_handed_on_is_no_news() -> None:
    """The dedupe worker may be far behind."""
    answer = told("FIRST_SUCCESS")
    question = make_question(answered=event_id(answer))

    assert Outcome.NOTHING_NEW is taken(question, answer).outcome


def test_an_end_that_has_no_effect_for_long_is_handed_on_again() -> None:
    answer = told("SUCCESS")
    question = make_question(answered=event_id(answer), age=OLD)

    found = taken(question, answer)

    assert (event_id(answer), False) == (found.event, found.gives_up)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (told("PENDING", response=None), Outcome.NOTHING_NEW),
        (told("SUCCESS", response=None), Outcome.NOTHING_NEW),
        (TaskNotFound("no such task"), Outcome.NOT_FOUND),
    ],
)
def test_a_task_is_given_up_when_it_is_old_and_nothing_is_new(
    answer: TaskUpdate | ProviderError, reason: Outcome
) -> None:
    young, old = taken(make_question(), answer), taken(make_question(age=OLD), answer)

    assert (reason, False) == (young.outcome, young.gives_up)
    assert (reason, True) == (old.outcome, old.gives_up)


def test_an_old_task_that_moves_is_not_given_up() -> None:
    assert not taken(make_question(age=OLD), told("FIRST_SUCCESS")).gives_up


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ProviderUnavailable("no answer"), Outcome.NO_ANSWER),
        (ProviderRefused("wrong key"), Outcome.REFUSED),
    ],
)
def test_no_answer_says_nothing_of_a_task(
    error: ProviderError, outcome: Outcome
) -> None:
    """Until the provider can have nothing left of it."""
    found = taken(make_question(age=timedelta(days=13)), error)
    later = taken(make_question(age=LIFETIME + INTERVAL), error)

    assert (outcome, None, False) == (found.outcome, found.event, found.gives_up)
    assert (outcome, True) == (later.outcome, later.gives_up)


def test_the_provider_is_left_alone_for_as_long_as_it_asks() -> None:
    hour = timedelta(hours=1)

    found = taken(make_question(), ProviderUnavailable("busy", after=hour))

    assert hour == found.next_in


def test_questions_for_a_task_drift_apart() -> None:
    waits = [RHYTHM.next_in(chance) for chance in (0.0, 0.5, 1.0)]

    assert [27, 30, 33] == [wait.total_seconds() for wait in waits]


def test_pauses_double_and_end_somewhere() -> None:
    error = ProviderUnavailable("503")

    pauses = [pause_after(n, error, chance=1).total_seconds() for n in range(1, 9)]

    assert [2, 4, 8, 16, 32, 60, 60, 60] == pauses
    assert timedelta(seconds=1) == pause_after(1, error, chance=0)


def test_a_pause_is_as_long_as_the_provider_wants_it() -> None:
    hour = timedelta(hours=1)

    assert hour == pause_after(1, ProviderUnavailable("429", after=hour), chance=0)
    assert LONGEST_PAUSE == pause_after(1, ProviderRefused("401"), chance=0)


def test_quiet_time_of_an_operation_that_nobody_knows_is_refused() -> None:
    settings = PollerSettings(operation_quiet={"wav": 5, "vaw": 5})

    with pytest.raises(ConfigurationError, match=r"operation_quiet: .* got vaw"):
        refuse_unknown_operations(settings)


def test_operations_have_quiet_times_of_their_own() -> None:
    settings = PollerSettings(quiet=timedelta(minutes=2), operation_quiet={"wav": 5})

    assert timedelta(seconds=5) == settings.quiet_for("wav")
    assert timedelta(minutes=2) == settings.quiet_for("generate")


def test_answers_of_all_stages_differ_in_their_event() -> None:
    """Or one that was handed on would hide the next."""
    answers = [told("TEXT_SUCCESS"), told("FIRST_SUCCESS"), make_update()]

    assert 3 == len({taken(make_question(), answer).event for answer in answers})
