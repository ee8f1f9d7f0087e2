"""The pages' scripts, in Node's own test runner; Playwright brings a Node along."""

from __future__ import annotations

import subprocess
from pathlib import Path

import playwright
import pytest

NODE = Path(playwright.__file__).parent / "driver" / "node"


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "javascript").glob("*.test.js")), ids=lambda p: p.name)
def test_scripts(path: Path) -> None:
    done = subprocess.run([NODE, "--test", path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout
    assert "pass 0" not in done.stdout
