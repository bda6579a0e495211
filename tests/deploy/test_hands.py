"""Who of the workers holds what, as it is believed and as it turns out."""

from __future__ import annotations

import numpy as np

from engine.deploy.hands import Hands

EACH_4_S = np.full(8, 4.0)


def test_tasks_are_given_out_in_turn_and_then_to_whoever_is_through() -> None:
    hands = Hands(workers=2, tasks=8)
    assert hands.through(0, "a", 4.0) is None
    assert hands.through(2, "a", 8.0) == 4.0
    assert hands.through(4, "a", 12.0) == 8.0  # what a was given when it was through with 0
    assert hands.through(1, "b", 12.0) is None
    # a: 5 from 12 s and 6; b: 3 from 12 s and 7
    assert hands.ends_s(EACH_4_S, 12.0) == 20.0


def test_a_task_that_comes_from_another_is_exchanged() -> None:
    """Workers that were there at different times: a was given 0 and 1, b 2 and 3."""
    hands = Hands(workers=2, tasks=4)
    for task, worker, now_s in ((0, "a", 4.0), (2, "b", 4.0), (1, "a", 8.0)):
        hands.through(task, worker, now_s)
    assert hands.ends_s(EACH_4_S, 8.0) == 8.0  # b's 3, which it began at 4 s, is due
    assert hands.ends_s(2 * EACH_4_S, 8.0) == 12.0


def test_a_task_that_was_not_given_out_yet_may_come() -> None:
    hands = Hands(workers=1, tasks=4)
    hands.through(3, "a", 4.0)
    assert hands.ends_s(EACH_4_S, 4.0) == 16.0


def test_a_worker_in_place_of_one_that_died_takes_its_hand() -> None:
    hands = Hands(workers=2, tasks=8)
    hands.through(0, "a", 4.0)
    hands.through(1, "b", 5.0)
    assert hands.through(2, "c", 9.0) == 4.0
    assert hands.through(3, "b", 9.0) == 5.0


def test_the_tasks_of_a_worker_that_is_not_heard_of_count_from_when_the_first_was() -> None:
    hands = Hands(workers=2, tasks=2)
    hands.through(0, "a", 4.0)
    assert hands.ends_s(EACH_4_S, 5.0) == 8.0


def test_fewer_tasks_than_workers_leave_hands_empty() -> None:
    hands = Hands(workers=4, tasks=1)
    assert hands.ends_s(EACH_4_S, 1.0) == 5.0
    hands.through(0, "d", 4.0)
    assert hands.ends_s(EACH_4_S, 4.0) == 4.0
