"""What the tests of filters share: a program that makes any call, in a root of its own."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
from conftest import compile_c

from seccomp.programs import CALLER


@pytest.fixture(scope="session")
def caller_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled once."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    if platform.machine() != "x86_64":
        pytest.skip("the numbers in these tests are those of x86_64")
    return compile_c(CALLER, tmp_path_factory.mktemp("caller") / "caller", ("-static", "-pthread"))


@pytest.fixture
def caller(own_root: Path, caller_file: Path) -> Path:
    """A root with the program as /caller."""
    shutil.copy(caller_file, own_root / "caller")
    os.chmod(own_root / "caller", 0o755)
    return own_root
