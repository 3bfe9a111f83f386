"""Every refusal of the admin service stands in the contract."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.admin import tasks

ROOT = Path(__file__).parents[2]
#: Those that mean the same as at the ingress.
AS_ABOVE = {
    "unreadable",
    "broken_body",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
}
#: For an error of the provider's client that there is not yet.
SPARE = {"provider_error"}


def test_every_code_is_documented_with_its_status() -> None:
    contract = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    section = contract.partition("## Submissions over HTTP")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", section, re.MULTILINE)
    code = Path(tasks.__file__).read_text(encoding="utf-8")
    made = re.findall(r"problem\(\s*(\d+),[^)]*?code=\"(\w+)\"", code)

    documented = {name: int(status) for status, name in rows}

    expected = {name: int(status) for status, name in made if name not in AS_ABOVE}
    expected |= {name: status for _, status, name in tasks._REFUSALS}
    assert expected.keys() - SPARE == documented.keys()
    assert {name: expected[name] for name in documented} == documented
