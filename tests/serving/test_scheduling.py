import random
import threading

import pytest

from serving.lines import Load, Ticket
from serving.scheduling import BusyError, DeadlineError, Scheduler

WIDE = Load(images=100, pixels=10**9, size_bytes=10**9)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Watcher:
    """Remembers what an observer is told."""

    def __init__(self):
        self.said = []

    def accepted(self, pixels):
        self.said.append(pixels)

    def refused(self, reason):
        self.said.append(reason)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    """A scheduler whose one worker is busy, so that what is submitted waits."""

    def make(bounds=WIDE, *, busy=True, observer=None):
        scheduler = Scheduler(bounds, workers=1, observer=observer, clock=clock)
        if busy:
            scheduler.submit(ticket("nobody", "first"))
            scheduler.take()
        return scheduler

    return make


def ticket(client, name, *, pixels=100, size_bytes=10, deadline=1e9, shape=None):
    lost = []
    made = Ticket(name, client, pixels, size_bytes, deadline, shape, lost.append)
    made.lost = lost
    return made


def drained(scheduler, most=lambda _: 1):
    """Everything that waits, in the order of turns."""
    taken = []
    while scheduler.waiting.images:
        taken.append([one.work for one in scheduler.take(most)])
    return taken


def test_clients_take_turns_and_each_keeps_its_order(queue):
    scheduler = queue()
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        scheduler.submit(ticket(name[0], name))

    names = [name for (name,) in drained(scheduler)]

    assert names == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_client_that_comes_back_waits_for_its_turn_again(queue):
    scheduler = queue()
    for name in ("a1", "b1", "b2"):
        scheduler.submit(ticket(name[0], name))
    (first,) = scheduler.take()
    scheduler.submit(ticket("a", "a2"))

    assert first.work == "a1"
    assert [name for (name,) in drained(scheduler)] == ["b1", "a2", "b2"]


def test_images_of_one_shape_go_together_and_overtake_nobody_of_their_client(queue):
    scheduler = queue()
    small, large = (32, 32), (64, 64)
    for name, shape in [
        ("a1", small),
        ("a2", large),
        ("a3", small),
        ("b1", small),
        ("b2", small),
        ("c1", large),
        ("d1", None),
        ("e1", None),
    ]:
        scheduler.submit(ticket(name[0], name, shape=shape))

    # a3 is small too, but behind a2
    assert drained(scheduler, lambda _: 4) == [
        ["a1", "b1", "b2"],
        ["c1", "a2"],
        ["d1"],
        ["e1"],
        ["a3"],
    ]


def test_no_more_go_together_than_the_engine_takes(queue):
    scheduler = queue()
    for client in "abcde":
        scheduler.submit(ticket(client, client, shape=(32, 32)))
    assert [len(names) for names in drained(scheduler, lambda one: 2)] == [2, 2, 1]


def test_a_deadline_that_has_passed_is_never_started(queue, clock):
    watcher = Watcher()
    scheduler = queue(observer=watcher)
    late, later = ticket("a", "late", deadline=2.0), ticket("a", "later", deadline=9.0)
    scheduler.submit(late)
    scheduler.submit(later)

    clock.now = 2.0
    taken = scheduler.take()

    assert [one.work for one in taken] == ["later"]
    (error,) = late.lost
    assert isinstance(error, DeadlineError)
    assert "not free in time for an answer within 2 s; try again later" in str(error)
    assert watcher.said[-1] == "deadline"


def test_an_image_that_waits_in_vain_is_told_at_its_deadline_and_not_later(queue, clock):
    scheduler = queue()
    waiting = ticket("a", "waiting", deadline=0.5)
    scheduler.submit(waiting)

    clock.now = 0.5
    scheduler.expire(waiting)
    scheduler.expire(waiting)

    assert [type(error) for error in waiting.lost] == [DeadlineError]
    assert scheduler.waiting == Load()


def test_what_a_worker_has_does_not_expire(queue):
    scheduler = queue(busy=False)
    taken = ticket("a", "taken")
    scheduler.submit(taken)
    scheduler.take()
    scheduler.expire(taken)
    assert taken.lost == []


def test_too_many_images_are_refused_at_once(queue):
    watcher = Watcher()
    scheduler = queue(Load(images=2, pixels=10**6, size_bytes=10**6), observer=watcher)
    scheduler.submit(ticket("a", "a1"))
    scheduler.submit(ticket("a", "a2"))
    with pytest.raises(
        BusyError,
        match=r"too many images wait already \(2, of 200 pixels together\); try again later",
    ) as busy:
        scheduler.submit(ticket("a", "a3"))
    assert busy.value.retry_after_s == 1
    assert watcher.said[-1] == "full"


@pytest.mark.parametrize("heavy", [{"pixels": 600}, {"size_bytes": 600}])
def test_too_many_pixels_or_bytes_are_refused_at_once(queue, heavy):
    scheduler = queue(Load(images=9, pixels=1000, size_bytes=1000))
    scheduler.submit(ticket("a", "a1", **heavy))
    with pytest.raises(BusyError, match="too many images wait already"):
        scheduler.submit(ticket("a", "a2", **heavy))


def test_an_image_larger_than_the_bound_waits_alone(queue):
    scheduler = queue(Load(images=9, pixels=1000, size_bytes=1000))
    scheduler.submit(ticket("a", "huge", pixels=10**9, size_bytes=10**9))
    assert scheduler.waiting == Load(1, 1000, 1000)
    with pytest.raises(BusyError):
        scheduler.submit(ticket("a", "small", pixels=1))


def test_an_idle_worker_is_room_for_one_more(queue):
    scheduler = queue(Load(images=0, pixels=1000, size_bytes=1000), busy=False)
    scheduler.submit(ticket("a", "a1"))
    with pytest.raises(BusyError):
        scheduler.submit(ticket("a", "a2"))
    scheduler.take()
    with pytest.raises(BusyError):
        scheduler.submit(ticket("a", "a2"))
    scheduler.done(100, 1.0)
    scheduler.submit(ticket("a", "a2"))


def test_one_client_that_floods_the_queue_keeps_nobody_out(queue):
    watcher = Watcher()
    scheduler = queue(Load(images=4, pixels=10**6, size_bytes=10**6), observer=watcher)
    flood = [ticket("a", f"a{n}") for n in range(4)]
    for one in flood:
        scheduler.submit(one)

    scheduler.submit(ticket("b", "b1"))
    scheduler.submit(ticket("b", "b2"))
    with pytest.raises(BusyError):  # b would have more than a
        scheduler.submit(ticket("b", "b3"))

    assert [len(one.lost) for one in flood] == [0, 0, 1, 1]
    assert isinstance(flood[3].lost[0], BusyError)
    assert watcher.said.count("full") == 3
    assert [name for (name,) in drained(scheduler)] == ["a0", "b1", "a1", "b2"]


def test_nobody_loses_a_place_to_a_newcomer_that_would_not_fit_anyway(queue):
    scheduler = queue(Load(images=9, pixels=1000, size_bytes=10**6))
    waiting = [ticket("a", "a1", pixels=500), ticket("a", "a2", pixels=500)]
    for one in waiting:
        scheduler.submit(one)
    with pytest.raises(BusyError):
        scheduler.submit(ticket("b", "b1", pixels=800))
    assert [one.lost for one in waiting] == [[], []]


def test_retry_after_is_what_the_waiting_pixels_take_at_the_measured_pace(queue):
    scheduler = queue(Load(images=9, pixels=1000, size_bytes=10**6))
    scheduler.done(100, 0.5)  # 5 ms a pixel
    scheduler.submit(ticket("a", "a1", pixels=300))
    scheduler.take()
    scheduler.submit(ticket("a", "a2", pixels=700))
    assert scheduler.expected_wait_s() == pytest.approx(5.0)  # what is in work counts whole
    with pytest.raises(BusyError) as busy:
        scheduler.submit(ticket("a", "a3", pixels=700))
    assert busy.value.retry_after_s == 5


def test_what_failed_says_nothing_of_the_pace(queue):
    scheduler = queue()
    scheduler.done(100, 0.0)
    scheduler.submit(ticket("a", "a1"))
    assert scheduler.expected_wait_s() == 0.0


def test_an_image_whose_turn_cannot_come_in_time_is_refused_at_once(queue):
    scheduler = queue()
    scheduler.done(100, 1.0)
    scheduler.submit(ticket("a", "a1", pixels=300))
    with pytest.raises(
        BusyError,
        match=r"its turn comes in about 3 s, too late for an answer within 0\.5 s; .*X-Timeout-Ms",
    ) as busy:
        scheduler.submit(ticket("b", "b1", deadline=0.5))
    assert busy.value.retry_after_s == 3
    with pytest.raises(BusyError):  # it could begin, and be late
        scheduler.submit(ticket("b", "b2", deadline=3.5))
    scheduler.submit(ticket("b", "b3", deadline=4.5))


def test_what_cannot_be_answered_in_time_any_more_is_not_begun(queue, clock):
    scheduler = queue()
    scheduler.done(100, 1.0)
    tight, easy = ticket("a", "tight", deadline=1.5), ticket("b", "easy", deadline=9.0)
    scheduler.submit(tight)
    scheduler.submit(easy)
    clock.now = 0.6
    assert [one.work for one in scheduler.take()] == ["easy"]
    assert [type(error) for error in tight.lost] == [DeadlineError]


def test_a_free_worker_tries_what_seems_too_slow(queue):
    scheduler = queue()
    scheduler.done(100, 60.0)
    scheduler.submit(ticket("a", "quick", deadline=0.001))
    assert [one.work for one in scheduler.take()] == ["quick"]


def test_while_all_workers_are_busy_nothing_waits_that_would_be_late(queue):
    scheduler = queue()
    scheduler.done(100, 1.0)
    scheduler.submit(ticket("a", "a1"))
    scheduler.take()
    with pytest.raises(BusyError, match="its turn comes in about 1 s"):
        scheduler.submit(ticket("b", "b1", deadline=1.5))


def test_what_is_withdrawn_is_gone(queue):
    scheduler = queue()
    first, second = ticket("a", "a1"), ticket("a", "a2")
    scheduler.submit(first)
    scheduler.submit(second)

    assert scheduler.withdraw(first)
    assert not scheduler.withdraw(first)

    assert scheduler.waiting == Load(1, 100, 10)
    assert drained(scheduler) == [["a2"]]
    assert first.lost == []


def test_a_closed_queue_takes_nothing_more_and_gives_what_it_has(queue):
    scheduler = queue()
    scheduler.submit(ticket("a", "a1"))
    scheduler.close()
    with pytest.raises(BusyError, match="the server is shutting down; try again soon"):
        scheduler.submit(ticket("a", "a2"))
    assert drained(scheduler) == [["a1"]]
    assert scheduler.take() == []


def test_waiting_for_idle_ends_with_the_last_worker(queue):
    scheduler = queue()
    assert not scheduler.wait_until_idle(0.0)
    idle = threading.Event()
    waiter = threading.Thread(target=lambda: scheduler.wait_until_idle(20) and idle.set())
    waiter.start()
    scheduler.done(100, 1.0)
    waiter.join(20)
    assert idle.is_set()


def test_what_is_left_at_the_end_is_sent_away(queue):
    scheduler = queue()
    left = ticket("a", "a1")
    scheduler.submit(left)
    scheduler.clear()
    assert "shutting down" in str(left.lost[0])
    assert scheduler.waiting == Load()


def test_a_worker_that_waits_is_woken_by_work_and_by_the_end(queue):
    scheduler = queue(busy=False)
    taken = []

    def work():
        while tickets := scheduler.take():
            taken.extend(one.work for one in tickets)
            scheduler.done(1, 0.0)

    worker = threading.Thread(target=work)
    worker.start()
    scheduler.submit(ticket("a", "a1"))
    assert scheduler.wait_until_idle(20)
    scheduler.close()
    worker.join(20)
    assert not worker.is_alive()
    assert taken == ["a1"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_bounds_hold_and_nothing_is_lost(clock, seed):
    chance = random.Random(seed)
    bounds = Load(images=6, pixels=1000, size_bytes=500)
    scheduler = Scheduler(bounds, workers=2, clock=clock)
    made, ended, atwork = [], [], 0
    for number in range(400):
        clock.now += chance.random()
        action = chance.random()
        if action < 0.6:
            one = ticket(
                chance.choice("abcd"),
                number,
                pixels=chance.choice([0, 1, 50, 300, 5000]),
                size_bytes=chance.choice([1, 100, 900]),
                deadline=clock.now + chance.uniform(0, 8),
                shape=chance.choice([None, (8, 8), (9, 9)]),
            )
            try:
                scheduler.submit(one)
                made.append(one)
            except BusyError:
                pass
        elif action < 0.8 and scheduler.waiting.images and atwork < 2:
            # with none that can still be begun in time, it would wait for more
            if any(one.start_by > clock.now for one in scheduler._lines):
                ended += scheduler.take(lambda _: 3)
                atwork += 1
        elif action < 0.9 and atwork:
            scheduler.done(chance.randrange(1, 1000), chance.random())
            atwork -= 1
        elif made:
            one = chance.choice(made)
            if scheduler.withdraw(one):
                ended.append(one)
        waiting = scheduler.waiting
        assert 0 <= waiting.pixels <= bounds.pixels
        assert 0 <= waiting.size_bytes <= bounds.size_bytes
        assert 0 <= waiting.images <= bounds.images + 2
        away = [one for one in made if one.lost]
        assert len(ended) + len(away) + waiting.images == len(made)
    assert len(set(map(id, ended))) == len(ended)
