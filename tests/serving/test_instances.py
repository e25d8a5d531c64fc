import threading
from itertools import count

import numpy as np
import pytest

from devices.session import StubSession
from serving.instances import Instances, best_batch


class Timed:
    """A session that takes seconds of a clock, as many as its function of the batch says."""

    def __init__(self, seconds, function=lambda images: -images):
        self.now = 0.0
        self.seconds = seconds
        self.function = function
        self.batches = []

    def clock(self):
        return self.now

    def run(self, images):
        self.batches.append(len(images))
        self.now += self.seconds(len(images))
        return self.function(images)


def best(session, most=8):
    return best_batch(session, 16, most=most, clock=session.clock)


@pytest.mark.parametrize(
    ("seconds", "most", "want"),
    [
        (lambda n: n, 8, 1),  # no gain
        (lambda n: 1 + 0.1 * n, 8, 8),
        (lambda n: 1 + 0.1 * n, 4, 4),
        (lambda n: 1 + 0.1 * n, 1, 1),
        (lambda n: n / 1.05, 8, 1),  # less than a tenth
        (lambda n: {1: 1, 2: 1.5, 4: 4, 8: 9}[n], 8, 2),
    ],
)
def test_the_batch_that_makes_most_images_a_second(seconds, most, want):
    assert best(Timed(seconds), most) == want


def test_an_engine_that_refuses_batches_is_never_asked_again(caplog):
    def one_only(images):
        if len(images) > 1:
            raise RuntimeError("the model input is [1,3,?,?]")
        return -images

    session = Timed(lambda n: 1.0, one_only)
    assert best(session) == 1
    assert session.batches == [2]
    assert caplog.text == ""


def test_an_engine_whose_batches_are_other_images_runs_them_one_by_one():
    session = Timed(lambda n: 1.0, lambda images: -images + np.float32(1e-6) * (len(images) - 1))
    assert best(session) == 1


def test_a_session_is_lent_to_one_at_a_time():
    instances = Instances([StubSession(), StubSession()])
    lent, most = [], []
    lock = threading.Lock()
    ticks = count()

    def use():
        for _ in range(50):
            with instances.turn() as session:
                with lock:
                    lent.append(id(session))
                    most.append(len(set(lent)) == len(lent))
                next(ticks)
                with lock:
                    lent.remove(id(session))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(instances) == 2
    assert next(ticks) == 200
    assert all(most)


def test_a_session_comes_back_after_an_error():
    instances = Instances([StubSession()])
    with pytest.raises(ZeroDivisionError), instances.turn():
        _ = 1 / 0
    with instances.turn() as session:
        assert session.run(np.zeros((1, 3, 2, 2), np.float32)).shape == (1, 3, 2, 2)
