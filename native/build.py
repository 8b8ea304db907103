"""Build glue for setuptools: the extension `minibox._native` and the static program `minibox/minibox-init`.

pyproject.toml names the two classes under [tool.setuptools.cmdclass].  The extension is built in cffi's API
mode: `minibox.h` holds the plain prototypes that Python sees, `minibox.c` the code behind them.  One file,
`_native.abi3.so`, serves every Python from 3.11 on.
"""

import os
import shlex
import shutil

import cffi
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

INIT = "minibox/minibox-init"


def prototypes(path):
    """The header as cffi wants it: without preprocessor lines (its include guard)."""
    with open(path, encoding="utf-8") as header:
        return "".join("\n" if line.lstrip().startswith("#") else line for line in header)


class BuildExt(build_ext):
    def build_extension(self, ext):
        ffi = cffi.FFI()
        ffi.cdef(prototypes("native/minibox.h"))
        ffi.set_source(ext.name, '#include "minibox.c"')  # included, so that errors name its own lines
        os.makedirs(self.build_temp, exist_ok=True)
        generated = os.path.join(self.build_temp, "_native.c")
        ffi.emit_c_code(generated)
        ext.sources = [generated]
        super().build_extension(ext)

    def build_extensions(self):
        super().build_extensions()
        # Static: it runs as PID 1 of root file systems that hold no libc, or a hostile one.
        target = os.path.join(self.build_lib, INIT)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-O2", "-Wall", "-Wextra", "-static", "-s"]
        self.spawn([*compiler, *flags, "-o", target, "native/init.c"])

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        # Beside and renamed: a container may be running the old one ("text file busy").
        shutil.copy(os.path.join(self.build_lib, INIT), INIT + ".new")
        os.replace(INIT + ".new", INIT)

    def get_outputs(self):
        return [*super().get_outputs(), os.path.join(self.build_lib, INIT)]

    def get_output_mapping(self):
        mapping = super().get_output_mapping()
        if self.inplace:
            mapping[os.path.join(self.build_lib, INIT)] = INIT
        return mapping


class Sdist(sdist):
    def make_distribution(self):
        """Add what is no Python package; of rootfs/ the skeleton, not what scripts/build-rootfs put there."""
        for directory in ("native", "rootfs/etc", "scripts", "tests", "docs", ".ci"):
            self.filelist.graft(directory)
        for name in (".gitignore", "CHANGELOG.md", "CONTRIBUTING.md"):
            self.filelist.include(name)
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()
