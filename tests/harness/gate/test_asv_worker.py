"""The measuring process of a foreign project: benchmarks that fork, and where its objects lie."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gate import asv_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


FORKS = """
import os, sys
import asv_worker

def joined(self):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return {"joined": True}

def late(self):
    if not os.fork():
        import time; time.sleep(0.05)
    return {}

asv_worker.Process.joined, asv_worker.Process.late = joined, late
process = asv_worker.Process("", sys.stdout)
for what in ["joined", "late", "joined"] * 2:
    process.name = what
    process.answer({"do": what})
"""


def test_a_child_in_which_the_call_returns_is_told_by_the_name_of_its_benchmark() -> None:
    """Its own answer would come at any time, and be taken for that of the next benchmark."""
    environment = {**os.environ, "PYTHONPATH": str(Path(asv_process.__file__).parent)}
    output = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, env=environment).stdout
    answers = [json.loads(line) for line in output.splitlines()]
    assert [{key for key in answer if key != "processor"} for answer in answers] == [{"joined"}, {"forked"}, {"joined"}] * 2
    assert {answer["forked"] for answer in answers if "forked" in answer} == {"late"}


PLACES = """
import random, sys
import asv_worker
process = asv_worker.Process("", sys.stdout, random.Random(int(sys.argv[1])))
for _ in range(2):
    made = [object(), float(sys.argv[1]), bytes(300), bytes(5000)]
    print(*(id(one) % asv_worker.PAGE for one in made))
    process.move_objects()
"""


def test_every_pair_has_its_own_placement_of_objects_in_memory() -> None:
    """Else an import more on one side moves what both sides measure, and one of the places may be slower in every pair."""
    environment = {**os.environ, "PYTHONPATH": str(Path(asv_process.__file__).parent), "PYTHONHASHSEED": "0"}

    def places(seed: int) -> tuple[str, ...]:
        words = [sys.executable, "-c", PLACES, str(seed)]
        output = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
        return tuple(output.splitlines())

    found = [places(seed) for seed in (1, 1, 2, 3, 4)]
    assert found[0] == found[1]  # both sides of a pair
    for benchmark in (0, 1):
        for size, offsets in enumerate(zip(*(each[benchmark].split() for each in found[1:]), strict=True)):
            assert len(set(offsets)) > 1, f"objects of size {size} stay where they are"
    assert all(first != second for first, second in found)  # the next benchmark has another
