"""Hold what was accepted against what came of it. Pure: it reads values only.

What it knows comes from outside the pipeline: the provider's own count of answers,
what subscribers have noted, the files on the disk, what lies in the queues. An
occurrence is named by what it says (type, task, detail) and not by the pipeline's
id, so two ids for one occurrence are seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STORED: Final = "asset.stored"
READY: Final = "task.assets_ready"
DEDUPE: Final = "dedupe"
DOWNLOAD: Final = "download"
NOTIFY: Final = "notify."
#: Stages that tell of files.
FILE_STAGES: Final = frozenset({"first", "complete"})
#: So many examples of each complaint are kept.
EXAMPLES: Final = 5


class Said(NamedTuple):
    """What a callback says; repeats of it say the same."""

    task_id: str
    stage: str


class Effect(NamedTuple):
    """An occurrence that a subscriber is told of."""

    type: str
    task_id: str
    #: The stage of ``task.assets_ready``, the kind of ``asset.stored``, else empty.
    detail: str = ""


class Dead(NamedTuple):
    """A dead letter."""

    #: The work queue it failed in.
    queue: str
    reason: str
    task_id: str
    #: What the event in it says; ``None``: it holds none.
    effect: Effect | None = None


@dataclass(slots=True, kw_only=True)
class Hearing:
    """What one subscriber wants to hear, and what it has accepted."""

    #: Types of events; empty: all.
    types: frozenset[str] = frozenset()
    #: By ``webhook-id``: a good subscriber heeds each id once.
    effects: dict[str, Effect] = field(default_factory=dict)
    #: Requests answered 200.
    accepted: int = 0
    #: Ids that came with two different events.
    mixed: list[str] = field(default_factory=list)

    def accept(self, webhook_id: str, effect: Effect) -> bool:
        """Note a request that is answered 200; tell whether its id is new."""
        self.accepted += 1
        known = self.effects.setdefault(webhook_id, effect)
        if known != effect:
            self.mixed.append(webhook_id)
        return known is effect

    def wants(self, effect: Effect) -> bool:
        """Tell whether it asked for such events."""
        return not self.types or effect.type in self.types


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that was seen from outside."""

    #: How often each thing was sent, whatever the answer was.
    sent: Mapping[Said, int]
    #: How often each thing was answered 200.
    accepted: Mapping[Said, int]
    #: The hash of the file that a task tells of, if it tells of one.
    files: Mapping[str, str]
    hearings: Mapping[str, Hearing]
    #: Hashes of the files in the asset store, as computed from their bytes.
    stored: frozenset[str]
    dead: Sequence[Dead] = ()
    #: Callbacks that the ledger has, repeats included.
    recorded: int = 0
    #: Messages that wait in each work queue.
    ready: Mapping[str, int] = field(default_factory=dict)
    #: Messages in the delay queues.
    delayed: int = 0
    #: Callbacks in outage spools.
    spooled: int = 0
    #: Callbacks that no queue wanted.
    unrouted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Where the messages of a queue are: published = acked + delayed + dead."""

    queue: str
    published: int
    acked: int
    dead: int
    ready: int

    @property
    def gap(self) -> int:
        """What is neither acknowledged nor dead nor ready: it must be delayed."""
        return self.published - self.acked - self.dead - self.ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the history says."""

    #: Callbacks that were answered 200.
    accepted: int
    #: Different things that they say.
    distinct: int
    #: Effects by subscriber, each occurrence once.
    effects: Mapping[str, int]
    #: Files of accepted callbacks that are in the store, whole.
    files_stored: int
    #: What was accepted and has neither its effect nor a dead letter.
    lost: Mapping[str, int]
    #: Occurrences that one subscriber took for two, because their ids differ.
    twice: int
    #: Requests that repeat an id; a subscriber drops them.
    repeats: Mapping[str, int]
    #: Effects of what was never sent, and ids that name two occurrences.
    invented: int
    #: By queue and reason.
    dead: Mapping[tuple[str, str], int]
    balances: Sequence[Balance]
    delayed: int
    is_balanced: bool
    #: Some of each complaint, in words.
    examples: Sequence[str]

    @property
    def lost_count(self) -> int:
        """How much is lost in all."""
        return sum(self.lost.values())

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing twice, nothing made up, and the sums are right."""
        wrong = self.lost_count or self.twice or self.invented
        return not wrong and self.is_balanced


def check(history: History) -> Verdict:
    """Give the verdict on a history."""
    missing = _missing(history)
    lost = {what: len(found) for what, found in missing.items() if found}
    twice = list(_twice(history))
    invented = list(_invented(history))
    balances = _balances(history)
    examples = [
        f"lost, {what}: {one}"
        for what, found in missing.items()
        for one in found[:EXAMPLES]
    ]
    examples += [f"twice: {one}" for one in twice[:EXAMPLES]]
    examples += [f"made up: {one}" for one in invented[:EXAMPLES]]
    return Verdict(
        accepted=sum(history.accepted.values()),
        distinct=len(history.accepted),
        effects={n: len({*h.effects.values()}) for n, h in history.hearings.items()},
        files_stored=sum(
            digest in history.stored for digest in _files(history).values()
        ),
        lost=lost,
        twice=len(twice),
        repeats={n: h.accepted - len(h.effects) for n, h in history.hearings.items()},
        invented=len(invented),
        dead=Counter((dead.queue, dead.reason) for dead in history.dead),
        balances=balances,
        delayed=history.delayed,
        is_balanced=_is_balanced(history, balances),
        examples=examples,
    )


def count_missing(history: History) -> int:
    """Count what is still to come: effects and files."""
    return sum(map(len, _missing(history).values()))


def expected(said: Said, *, has_file: bool) -> Iterator[Effect]:
    """Give the effects of one accepted callback."""
    yield Effect(f"task.{said.stage}", said.task_id)
    if has_file and said.stage in FILE_STAGES:
        yield Effect(STORED, said.task_id, "audio")
        yield Effect(READY, said.task_id, said.stage)


def _effects_of(history: History, told: Mapping[Said, int]) -> set[Effect]:
    return {
        effect
        for said in told
        for effect in expected(said, has_file=said.task_id in history.files)
    }


def _files(history: History) -> dict[str, str]:
    """Give the files that accepted callbacks have told of, by task."""
    return {
        said.task_id: history.files[said.task_id]
        for said in history.accepted
        if said.stage in FILE_STAGES and said.task_id in history.files
    }


def _stopped(history: History) -> set[str]:
    """Give the tasks with a callback or a file among the dead letters."""
    return {d.task_id for d in history.dead if d.queue in (DEDUPE, DOWNLOAD)}


def _missing(history: History) -> dict[str, list[str]]:
    """Give what should be there and is not, nor is a dead letter of it."""
    stopped = _stopped(history)
    wanted = _effects_of(history, history.accepted)
    missing = {
        "files not stored": [
            task_id
            for task_id, digest in _files(history).items()
            if digest not in history.stored and task_id not in stopped
        ]
    }
    for name, hearing in history.hearings.items():
        queue = f"{NOTIFY}{name}"
        dead = {d.effect for d in history.dead if d.queue == queue}
        got = {*hearing.effects.values()}
        missing[f"events not told to {name}"] = [
            " ".join(effect)
            for effect in wanted - got - dead
            if hearing.wants(effect) and effect.task_id not in stopped
        ]
    return missing


def _twice(history: History) -> Iterator[str]:
    for name, hearing in history.hearings.items():
        counts = Counter(hearing.effects.values())
        for effect, count in counts.items():
            if count > 1:
                yield f"{' '.join(effect)} by {name} under {count} ids"


def _invented(history: History) -> Iterator[str]:
    possible = _effects_of(history, history.sent)
    for name, hearing in history.hearings.items():
        for effect in {*hearing.effects.values()} - possible:
            yield f"{' '.join(effect)} told to {name}"
        for webhook_id in hearing.mixed:
            yield f"two events under the id {webhook_id} told to {name}"
        for effect in {*hearing.effects.values()}:
            if not hearing.wants(effect):
                yield f"{' '.join(effect)} told to {name}, which did not ask for it"


def _balances(history: History) -> list[Balance]:
    """Count the messages of each queue, as distinct messages."""
    dead = Counter(letter.queue for letter in history.dead)
    rows = [_balance_of_dedupe(history, dead[DEDUPE]), _balance_of_download(history)]
    stopped = _stopped(history)
    wanted = {
        effect
        for effect in _effects_of(history, history.accepted)
        # What follows from a dead letter is not published yet.
        if effect.task_id not in stopped
    }
    for name, hearing in history.hearings.items():
        queue = f"{NOTIFY}{name}"
        got = {*hearing.effects.values()}
        given_up = {d.effect for d in history.dead if d.queue == queue} - got
        rows.append(
            Balance(
                queue=queue,
                # What was never answered 200 may have come through all the same.
                published=len({e for e in wanted if hearing.wants(e)} | got),
                acked=len(got),
                dead=len(given_up),
                ready=history.ready.get(queue, 0),
            )
        )
    return rows


def _balance_of_dedupe(history: History, dead: int) -> Balance:
    """Count callbacks: each request that was answered 200 is one message."""
    accepted, sent = sum(history.accepted.values()), sum(history.sent.values())
    ready = history.ready.get(DEDUPE, 0) + history.spooled + history.unrouted
    seen = history.recorded + dead + ready
    return Balance(
        queue=DEDUPE,
        published=min(max(seen, accepted), sent),
        acked=history.recorded,
        dead=dead,
        ready=ready,
    )


def _balance_of_download(history: History) -> Balance:
    """Count requests: one for each file that was told of."""
    stored = {
        task for task, digest in history.files.items() if digest in history.stored
    }
    dead = {d.task_id for d in history.dead if d.queue == DOWNLOAD} - stored
    told = _files(history).keys() - _stopped(history)
    return Balance(
        queue=DOWNLOAD,
        published=len(told | stored | dead),
        acked=len(stored),
        dead=len(dead),
        ready=history.ready.get(DOWNLOAD, 0),
    )


def _is_balanced(history: History, balances: Sequence[Balance]) -> bool:
    gaps = [balance.gap for balance in balances]
    return min(gaps) >= 0 and sum(gaps) <= history.delayed
