"""The example of the README does what it says."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from stack import Stack


async def test_the_example_runs(
    stack: Stack, http: httpx2.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## A call\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"NATS_URL": stack.nats, "TOKEN": stack.token}
    exec(block[1], names)
    await names["main"](http)
    answer, refusal = capsys.readouterr().out.splitlines()
    assert "candidates" in answer
    code, available = refusal.split()
    assert (code, Decimal(available)) == ("insufficient_funds", 25 - Decimal("0.000925"))
