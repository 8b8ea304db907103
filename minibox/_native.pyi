"""The cffi extension of native/: types for the checker only."""

from typing import Any

lib: Any
ffi: Any
