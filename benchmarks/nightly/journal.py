"""The records of a night: its report, and the state, which is committed to the results branch after every step."""

import secrets
from pathlib import Path

from ..system.errors import CannotMeasure
from ..system.files import write_atomically
from ..system.git import git
from .branch import ResultsBranch
from .report import Report
from .state import Outcome, State, parse


class Journal:
    """The report, the state and the results branch of a night on the HEAD of `root`."""

    def __init__(self, root: Path, folder: Path, device: str) -> None:
        self.root, self.device = root, device
        self.report = Report(device, git("rev-parse", "HEAD", folder=root, otherwise=""))
        self.branch = ResultsBranch(root, folder, self.note)
        self.folder = folder / device
        self.state = State()

    @property
    def head(self) -> str:
        """The commit that the night works on."""
        return self.report.head

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The outcomes of the report, by step."""
        return self.report.outcomes

    def open(self) -> None:
        """Open the branch and read the state. For a new HEAD, forget the former outcomes and draw new seeds.

        Raises BranchError, or CannotMeasure if the stored state is broken.
        """
        self.branch.open()
        file = self.folder / "state.json"
        try:
            self.state = parse(file.read_text()) if file.exists() else State()
        except ValueError as error:
            raise CannotMeasure(
                f"{file}: {error}; restore the file from an earlier commit of the branch, or delete it to start again"
            ) from None
        if self.state.head != self.head:
            self.state.head, self.state.steps = self.head, {}
            self.state.seeds = [secrets.randbelow(2**31), secrets.randbelow(2**31)]

    def write_state(self) -> None:
        """Write the state to the worktree without a commit."""
        write_atomically(self.folder / "state.json", self.state.text())

    def save(self, message: str) -> None:
        """Write the state and commit all changes of the worktree."""
        self.write_state()
        self.branch.commit(f"{self.device}: {message}")

    def save_report(self) -> None:
        """Write the summary and JUnit to the worktree, and commit them with the state."""
        write_atomically(self.folder / "summary.md", self.report.markdown())
        write_atomically(self.folder / "junit.xml", self.report.junit())
        self.save(self.report.headline())

    def note(self, text: str) -> None:
        """Print a sentence and add it to the summary."""
        self.report.notes.append(text)
        print(text, flush=True)
