"""docs/cli.md says what the tables say."""

from __future__ import annotations

import runpy
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_reference_page_is_up_to_date():
    module = runpy.run_path(str(CHECKOUT / "scripts" / "cli-reference"))
    assert (CHECKOUT / "docs" / "cli.md").read_text() == module["page"](), "run scripts/cli-reference"
