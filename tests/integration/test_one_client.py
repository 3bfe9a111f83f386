"""The limits of an account hold for all roles of a process, and all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.bootstrap import Plan, open_submitter
from pipeline.roles import open_roles
from tests.submission import surroundings

if TYPE_CHECKING:
    from pathlib import Path


def client_of(found: object, *names: str) -> object:
    for name in names:
        found = getattr(found, name)
    return found


async def test_roles_of_a_process_share_one_client(tmp_path: Path) -> None:
    plan = Plan(ingress=False, workers=frozenset(), polls=True, admin=True)
    async with surroundings(tmp_path) as around:
        settings = around.settings(
            admin__port=0, admin__tokens=["an-admin-token-of-some-length"]
        )

        async with open_roles(settings, plan) as roles:
            by_name = {role.name: role for role in roles}
            poller = client_of(by_name["poller"], "_poller", "_client")
            admin = client_of(
                by_name["admin"], "_routes", "_tasks", "_submitter", "_client"
            )
            turns = client_of(
                by_name["poller"], "_poller", "_client", "_pace", "_turns"
            )
            ledger = client_of(by_name["poller"], "_poller", "_ledger")

    assert poller is admin
    assert turns is ledger


async def test_whoever_submits_takes_turns_from_the_ledger(tmp_path: Path) -> None:
    async with (
        surroundings(tmp_path) as around,
        open_submitter(around.settings()) as submitter,
    ):
        turns = client_of(submitter, "_client", "_pace", "_turns")

        assert turns is client_of(submitter, "_ledger")
