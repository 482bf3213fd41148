"""Parse and compare versions, specifiers, requirements and markers like those that an installer reads."""

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

TEXTS = [
    f"{major}.{minor}.{patch}{suffix}" for major in range(4) for minor in range(5) for patch in (0, 3) for suffix in ("", "rc1")
]
REQUIREMENT = "requests[security,socks]>=2.8.1,==2.8.*; python_version < '3.8' and os_name == 'posix'"


class Versions:
    """What does it cost to parse, sort, write and filter versions?"""

    def setup(self) -> None:
        self.versions = [Version(text) for text in TEXTS]
        self.specifiers = SpecifierSet(">=1.0,!=1.3.*,<3")

    def time_parse(self) -> None:
        for text in TEXTS:
            Version(text)

    def time_sort(self) -> None:
        sorted(self.versions)

    def time_write(self) -> None:
        for version in self.versions:
            str(version)

    def time_filter(self) -> None:
        list(self.specifiers.filter(self.versions))


class Parsing:
    """What does it cost to parse a line of metadata?"""

    def time_requirement(self) -> None:
        Requirement(REQUIREMENT)

    def time_marker(self) -> None:
        Marker("python_version >= '3.8' and (os_name == 'posix' or extra == 'test')").evaluate({"extra": "test"})

    def time_wheel_name(self) -> None:
        parse_wheel_filename("numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")

    def time_name(self) -> None:
        canonicalize_name("Zope.Interface__Extra")

    def time_tags(self) -> None:
        list(sys_tags())
