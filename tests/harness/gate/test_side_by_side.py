"""Jobs that run at the same time have a core each, and an exception ends them."""

import threading

import pytest

from benchmarks.gate.side_by_side import side_by_side


def test_each_job_has_a_core_of_its_own_and_the_results_are_in_order() -> None:
    together, taken, ended = threading.Barrier(2, timeout=60), set[int | None](), list[int]()

    def job(core: int | None) -> int | None:
        assert core not in taken
        taken.add(core)
        together.wait()  # both cores are in use at once
        taken.discard(core)
        together.wait()
        return core

    found = side_by_side([job] * 6, [3, 5], lambda: ended.append(1), lambda: pytest.fail("nothing to stop"))
    assert sorted(core or 0 for core in found) == [3, 3, 3, 5, 5, 5]
    assert len(ended) == 6
    names = [lambda core, name=name: name for name in "abcdef"]
    assert side_by_side(names, [None], lambda: None, lambda: None) == list("abcdef")


@pytest.mark.parametrize(("error", "stops"), [(ValueError, 1), (KeyError, 0)])
def test_an_exception_stops_the_others_unless_they_are_to_end_by_themselves(error: type[Exception], stops: int) -> None:
    failed, stopped, begun = threading.Event(), list[int](), list[str]()

    def failing(core: int | None) -> None:
        begun.append("failing")
        raise error

    def running(core: int | None) -> None:
        begun.append("running")
        failed.wait(60)

    def stop() -> None:
        stopped.append(1)
        failed.set()

    timer = threading.Timer(0.2, failed.set)
    timer.start()
    with pytest.raises(error):
        side_by_side([running, failing, *[running] * 20], [0, 1], lambda: None, stop, patient=KeyError)
    timer.cancel()
    assert len(stopped) == stops
    assert len(begun) < 10  # the others never began
