"""Settings that pyproject.toml cannot express: a wheel without the C extension is tagged for every machine."""

from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildRows(build_ext):
    """Always recompile, so that a wheel never contains a library of an earlier build after a failed compilation."""

    def run(self) -> None:
        """Delete the libraries of an earlier build, and compile."""
        if not self.inplace:
            for library in self.get_outputs():
                Path(library).unlink(missing_ok=True)
        self.force = True
        super().run()


class Wheel(bdist_wheel):
    """A wheel whose tag depends on whether the C extension was compiled."""

    def run(self) -> None:
        """Compile first, then build the wheel."""
        self.run_command("build_ext")
        if not all(Path(library).exists() for library in self.get_finalized_command("build_ext").get_outputs()):
            self.distribution.ext_modules = []
            self.root_is_pure, self.py_limited_api = True, ""
        super().run()


setup(cmdclass={"build_ext": BuildRows, "bdist_wheel": Wheel})
