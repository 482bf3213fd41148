"""Run jobs at the same time, each on a core of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import Queue
from typing import TypeVar

T = TypeVar("T")


def side_by_side(
    jobs: Sequence[Callable[[int | None], T]],
    cores: Sequence[int | None],
    on_end: Callable[[], None],
    stop: Callable[[], None],
    patient: type[BaseException] | tuple[()] = (),
) -> list[T]:
    """Call each job with a core of `cores` that no other job has, and return the results in order.

    `on_end` is called after each job. After an exception of a job, or Ctrl-C, no further job begins; `stop`, which is to end
    those that run, is called unless the exception is a `patient` one. Then the exception is raised.
    """
    if not jobs:
        return []
    free: Queue[int | None] = Queue()
    for core in cores:
        free.put(core)

    def one(job: Callable[[int | None], T]) -> T:
        core = free.get()
        try:
            return job(core)
        finally:
            free.put(core)
            on_end()

    with ThreadPoolExecutor(len(cores)) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()  # raises, if this is the one
            return [future.result() for future in futures]
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, patient):
                stop()
            raise
