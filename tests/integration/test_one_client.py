"""The limits of an account hold for a process, not for each of its roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.bootstrap import Plan
from pipeline.roles import open_roles
from tests.submission import surroundings

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.service import Role


def client_of(role: Role, *names: str) -> object:
    found: object = role
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

    assert poller is admin
