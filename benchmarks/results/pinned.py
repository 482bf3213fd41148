"""The version of the package that every commit's time is divided by, extracted to where the suite looks for it."""

import shutil

from .. import workload
from ..suite.history import COMMIT, PINNED
from ..system.git import UnknownRevision, export, resolve

# The tag once it exists, until then the commit that added the layer.
REVISIONS = ("v0.1.0", "7a760ecc6c2f619dd9a88264aa513a0cb537057e")


def lay_out() -> str | None:
    """Extract the pinned version from git, unless it is there; return a warning if this clone lacks it."""
    for revision in REVISIONS:
        try:
            commit = resolve(revision)
        except UnknownRevision:
            continue
        if not COMMIT.exists() or COMMIT.read_text().strip() != commit:
            shutil.rmtree(PINNED, ignore_errors=True)
            export(commit, PINNED)
            workload.build(PINNED)
            COMMIT.write_text(commit)  # last, so that an interrupted extraction does not look complete
        return None
    names = " or ".join(REVISIONS)
    return f"This clone lacks the pinned version ({names}), so no time is recorded beside it: git fetch --unshallow --tags"
