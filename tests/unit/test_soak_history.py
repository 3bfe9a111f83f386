"""The history checker: it is silent when all is well, and complains when it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.soak.history import (
    READY,
    STORED,
    Dead,
    Effect,
    Hearing,
    History,
    Said,
    check,
    count_missing,
    expected,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

SONG = "song"
WORDS = "words"
FILE = "f" * 64
TOLD = (Said(SONG, "first"), Said(SONG, "complete"), Said(WORDS, "text"))


def make_hearing(effects: Iterable[Effect], *types: str) -> Hearing:
    hearing = Hearing(types=frozenset(types))
    for effect in effects:
        if hearing.wants(effect):
            hearing.accept(" ".join(effect), effect)
    return hearing


def make_history() -> History:
    """One task with a file, one without; a callback was repeated; all went well."""
    effects = {e for said in TOLD for e in expected(said, has_file=said[0] == SONG)}
    accepted = Counter(TOLD) + Counter([TOLD[0]])
    return History(
        sent=accepted,
        accepted=accepted,
        files={SONG: FILE},
        hearings={
            "archive": make_hearing(effects),
            "shop": make_hearing(effects, STORED, READY),
        },
        stored=frozenset({FILE}),
        recorded=4,
    )


def forget(history: History, name: str, effect: Effect) -> None:
    """Let a subscriber not have heard of something."""
    effects = history.hearings[name].effects
    found = next(key for key, known in effects.items() if known == effect)
    del effects[found]
    history.hearings[name].accepted -= 1


def test_nothing_is_wrong_where_everything_had_its_effect() -> None:
    verdict = check(make_history())

    assert verdict.is_good
    assert 4 == verdict.accepted
    assert 3 == verdict.distinct
    assert {"archive": 6, "shop": 3} == verdict.effects
    assert 1 == verdict.files_stored
    assert 0 == verdict.lost_count
    assert [] == list(verdict.examples)
    assert [4, 1, 6, 3] == [balance.published for balance in verdict.balances]


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("archive", Effect("task.text", WORDS)),
        ("archive", Effect("task.complete", SONG)),
        ("archive", Effect(STORED, SONG, "audio")),
        ("shop", Effect(STORED, SONG, "audio")),
        ("shop", Effect(READY, SONG, "first")),
    ],
)
def test_an_event_that_a_subscriber_did_not_hear_is_lost(
    name: str, effect: Effect
) -> None:
    history = make_history()
    forget(history, name, effect)

    verdict = check(history)

    assert not verdict.is_good
    assert {f"events not told to {name}": 1} == verdict.lost
    assert not verdict.is_balanced
    assert 1 == count_missing(history)
    assert [f"lost, events not told to {name}: {' '.join(effect)}"] == verdict.examples


def test_a_file_that_is_not_in_the_store_is_lost() -> None:
    history = replace(make_history(), stored=frozenset({"0" * 64}))

    verdict = check(history)

    assert {"files not stored": 1} == verdict.lost
    assert 0 == verdict.files_stored
    assert not verdict.is_good


def test_a_callback_that_was_never_answered_200_may_be_missing() -> None:
    history = make_history()
    sent = Counter(history.sent) + Counter([Said("other", "text")])

    assert check(replace(history, sent=sent)).is_good


def test_a_callback_that_was_never_answered_200_may_have_come_through() -> None:
    history = make_history()
    said = Said("other", "text")
    (effect,) = expected(said, has_file=False)
    history.hearings["archive"].accept("id", effect)
    sent = Counter(history.sent) + Counter([said])

    verdict = check(replace(history, sent=sent, recorded=5))

    assert verdict.is_good
    assert 5 == verdict.balances[0].published


def test_two_ids_for_one_event_are_seen_twice() -> None:
    history = make_history()
    history.hearings["shop"].accept("another id", Effect(STORED, SONG, "audio"))

    verdict = check(history)

    assert 1 == verdict.twice
    assert not verdict.is_good
    assert ["twice: asset.stored song audio by shop under 2 ids"] == verdict.examples


def test_the_same_id_again_is_a_repeat_and_no_harm() -> None:
    history = make_history()
    hearing = history.hearings["archive"]
    webhook_id, effect = next(iter(hearing.effects.items()))
    hearing.accept(webhook_id, effect)

    verdict = check(history)

    assert verdict.is_good
    assert {"archive": 1, "shop": 0} == verdict.repeats


def test_one_id_for_two_events_is_made_up() -> None:
    history = make_history()
    hearing = history.hearings["archive"]
    webhook_id = next(iter(hearing.effects))
    hearing.accept(webhook_id, Effect("task.text", "another task"))

    verdict = check(history)

    assert 1 == verdict.invented
    assert not verdict.is_good


def test_what_was_never_sent_is_made_up() -> None:
    history = make_history()
    history.hearings["archive"].accept("id", Effect("task.failed", WORDS))

    assert 1 == check(history).invented


def test_what_a_subscriber_did_not_ask_for_is_a_mistake() -> None:
    history = make_history()
    history.hearings["shop"].accept("id", Effect("task.text", WORDS))

    assert 1 == check(history).invented


def test_a_dead_notification_is_not_lost_for_its_subscriber_alone() -> None:
    history = make_history()
    effect = Effect("task.complete", SONG)
    forget(history, "archive", effect)
    dead = Dead("notify.archive", "NotificationFailed", SONG, effect)

    verdict = check(replace(history, dead=[dead]))

    assert verdict.is_good
    assert {("notify.archive", "NotificationFailed"): 1} == verdict.dead
    assert 6 == verdict.balances[2].published
    assert 1 == verdict.balances[2].dead


def test_a_dead_notification_of_another_queue_excuses_nothing() -> None:
    history = make_history()
    effect = Effect(STORED, SONG, "audio")
    forget(history, "archive", effect)
    dead = Dead("notify.shop", "NotificationFailed", SONG, effect)

    verdict = check(replace(history, dead=[dead]))

    assert 1 == verdict.lost_count


def test_a_notification_that_was_heard_and_died_all_the_same_counts_once() -> None:
    history = make_history()
    effect = Effect("task.complete", SONG)
    dead = Dead("notify.archive", "NotificationFailed", SONG, effect)

    verdict = check(replace(history, dead=[dead]))

    assert verdict.is_good
    assert 0 == verdict.balances[2].dead


@pytest.mark.parametrize("queue", ["dedupe", "download"])
def test_a_dead_callback_or_download_excuses_what_its_task_still_lacks(
    queue: str,
) -> None:
    history = make_history()
    for name in ("archive", "shop"):
        for effect in (Effect(STORED, SONG, "audio"), Effect(READY, SONG, "first")):
            forget(history, name, effect)
    dead = [Dead(queue, "FetchFailed", SONG)]
    history = replace(history, stored=frozenset(), dead=dead)

    verdict = check(history)

    assert 0 == verdict.lost_count
    assert 0 == sum(balance.gap for balance in verdict.balances[1:])
    assert 5 == check(replace(history, dead=())).lost_count


def test_a_callback_that_the_ledger_never_saw_upsets_the_balance() -> None:
    history = replace(make_history(), recorded=3)

    verdict = check(history)

    assert not verdict.is_balanced
    assert 1 == verdict.balances[0].gap


@pytest.mark.parametrize(
    "history",
    [
        replace(make_history(), recorded=3, spooled=1),
        replace(make_history(), recorded=3, unrouted=1),
        replace(make_history(), recorded=3, delayed=1),
        replace(make_history(), recorded=3, ready={"dedupe": 1}),
    ],
    ids=["spooled", "unrouted", "delayed", "ready"],
)
def test_a_callback_that_still_waits_somewhere_is_accounted_for(
    history: History,
) -> None:
    assert check(history).is_balanced


def test_more_callbacks_in_the_ledger_than_were_sent_upset_the_balance() -> None:
    assert not check(replace(make_history(), recorded=5)).is_balanced
