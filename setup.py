"""What pyproject.toml cannot say: a wheel without the C part is one for every machine, and its name says so."""

from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildRows(build_ext):
    """Compile anew, so that no library of an earlier build gets into a wheel in place of one that cannot be compiled."""

    def run(self) -> None:
        """Delete what an earlier build left, and compile."""
        if not self.inplace:
            for library in self.get_outputs():
                Path(library).unlink(missing_ok=True)
        self.force = True
        super().run()


class Wheel(bdist_wheel):
    """A wheel whose tag follows from what could be compiled."""

    def run(self) -> None:
        """Compile first, and then make the wheel."""
        self.run_command("build_ext")
        if not all(Path(library).exists() for library in self.get_finalized_command("build_ext").get_outputs()):
            self.distribution.ext_modules = []
            self.root_is_pure, self.py_limited_api = True, ""
        super().run()


setup(cmdclass={"build_ext": BuildRows, "bdist_wheel": Wheel})
