"""The gate, installed alone: `asv_gate.gate` and `asv_gate.system`."""

from pathlib import Path

ROOT = Path.cwd()  # of git commands that name no folder; the gate's own always name one
