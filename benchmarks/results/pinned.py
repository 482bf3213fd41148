"""The version of the package that every commit's time is divided by, laid out where the suite looks for it."""

import shutil

from .. import workload
from ..suite.history import COMMIT, PINNED
from ..system.git import UnknownRevision, export, resolve

# The tag once it exists, until then the commit that landed the layer.
REVISIONS = ("v0.1.0", "7a760ecc6c2f619dd9a88264aa513a0cb537057e")


def lay_out() -> str | None:
    """Take the pinned version out of git, unless it is there; what to say where this clone lacks it."""
    for revision in REVISIONS:
        try:
            commit = resolve(revision)
        except UnknownRevision:
            continue
        if not COMMIT.exists() or COMMIT.read_text().strip() != commit:
            shutil.rmtree(PINNED, ignore_errors=True)
            export(commit, PINNED)
            workload.build(PINNED)
            COMMIT.write_text(commit)  # last, so that what an interruption leaves does not look whole
        return None
    names = " or ".join(REVISIONS)
    return f"This clone lacks the pinned version ({names}), so nothing is recorded against it: git fetch --unshallow --tags"
