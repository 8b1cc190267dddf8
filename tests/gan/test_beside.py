import threading
import time

import pytest
import torch

from tune_gan.gan.beside import Beside

CPU, OTHER = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, OTHER])
def test_pieces_of_work_are_done_in_order_each_before_what_comes_after_it(device: torch.device) -> None:
    done: list[str] = []

    def work(number: int) -> None:
        time.sleep(0.02)
        done.append(f"work {number}")

    with Beside(device) as beside:
        for number in range(3):
            beside.begin(lambda n=number: work(n), lambda n=number: done.append(f"then {n}"))  # type: ignore[misc]
        beside.wait()
    assert done == ["work 0", "then 0", "work 1", "then 1", "work 2", "then 2"]


def test_a_cpu_does_it_at_once_and_in_its_own_thread() -> None:
    threads: list[int] = []
    with Beside(CPU) as beside:
        beside.begin(lambda: threads.append(threading.get_ident()))
        assert threads == [threading.get_ident()]


def test_beside_a_gpu_what_comes_after_is_done_by_the_caller_as_soon_as_it_looks() -> None:
    go, threads = threading.Event(), list[int]()
    with Beside(OTHER) as beside:
        beside.begin(lambda: (go.wait(), None)[1], lambda: threads.append(threading.get_ident()))
        beside.look()
        assert not threads
        go.set()
        while not threads:
            beside.look()
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("device", [CPU, OTHER])
def test_what_fails_is_raised_where_it_is_waited_for(device: torch.device) -> None:
    def fails() -> None:
        raise OSError("full")

    after: list[int] = []
    with pytest.raises(OSError, match="full"), Beside(device) as beside:  # noqa: PT012
        beside.begin(fails, lambda: after.append(1))
        beside.wait()
    assert not after


def test_an_error_meanwhile_leaves_no_work_half_done() -> None:
    done: list[int] = []

    def work() -> None:
        time.sleep(0.05)
        done.append(1)

    with pytest.raises(ValueError, match="meanwhile"), Beside(OTHER) as beside:  # noqa: PT012
        beside.begin(work, lambda: done.append(2))
        raise ValueError("meanwhile")
    assert done == [1]
