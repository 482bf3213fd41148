"""What does the package cost a new process?"""

from .subject import package, prepared

PEAK_CASE = "8192x768-f32-train"


class Start:
    """How long do the import of the package (torch included) and the construction of a layer take?"""

    version = "1"
    repeat = 3
    rounds = 1

    def timeraw_import_torch(self) -> str:
        """Time the import of torch alone: the reference for the benchmark below."""
        return "import torch"

    def timeraw_import(self) -> str:
        return "import taildropout"

    def timeraw_construct(self) -> tuple[str, str]:
        return "TailDropout(0.5)", "from taildropout import TailDropout"

    timeraw_import_torch.number = 1  # type: ignore[attr-defined]
    timeraw_import.number = 1  # type: ignore[attr-defined]
    timeraw_construct.number = 1000  # type: ignore[attr-defined]


class Peak:
    """What is the peak memory of a process that runs a step? The reference has a copy in place of the layer."""

    version = "1"

    def peakmem_step(self) -> None:
        prepared(PEAK_CASE, "TailDropout")()

    def peakmem_reference(self) -> None:
        package()
        prepared(PEAK_CASE, "copy")()
