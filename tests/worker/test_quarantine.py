"""One alone, or many beside each other; newcomers do not keep the one waiting."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import wait_until
from worker.quarantine import Quarantine


def test_who_is_alone_is_alone_and_others_go_on_afterwards() -> None:
    quarantine, leave, inside = Quarantine(), threading.Event(), 0
    seen: list[int] = []
    lock = threading.Lock()

    def beside() -> None:
        nonlocal inside
        with quarantine.beside():
            with lock:
                inside += 1
            assert leave.wait(180)
            with lock:
                inside -= 1

    def alone() -> None:
        with quarantine.alone(0.0, leave.set):
            seen.append(inside)

    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(beside) for _ in range(3)]
        wait_until(lambda: inside == 3, what="three beside each other")
        others = [pool.submit(alone) for _ in range(2)] + [pool.submit(beside) for _ in range(3)]
        for future in first + others:
            future.result(60)
    assert seen == [0, 0]


def test_who_finds_it_empty_sends_nobody_away() -> None:
    def never() -> None:
        raise AssertionError

    quarantine = Quarantine()
    with quarantine.alone(60.0, never):
        pass
    with quarantine.beside():
        pass
