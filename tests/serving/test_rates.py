import pytest

from serving.rates import RateError, Rates


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_without_a_rate_nothing_is_counted():
    rates = Rates(None, 1)
    for _ in range(100):
        rates.spend("a")
    assert len(rates) == 0


def test_a_burst_and_then_the_rate():
    clock = Clock()
    rates = Rates(2.0, 3, clock=clock)
    for _ in range(3):
        rates.spend("a")
    with pytest.raises(
        RateError,
        match=r"more than 2 requests per second \(and 3 at once\) .* the next is welcome in 0\.5 s",
    ) as refused:
        rates.spend("a")
    assert refused.value.retry_after_s == 1

    rates.spend("b")  # another client is no part of it
    clock.now = 0.5
    rates.spend("a")
    with pytest.raises(RateError):
        rates.spend("a")


def test_a_slow_rate_says_how_many_seconds_to_wait():
    rates = Rates(0.1, 1, clock=Clock())
    rates.spend("a")
    with pytest.raises(RateError) as refused:
        rates.spend("a")
    assert refused.value.retry_after_s == 10


def test_a_bucket_holds_no_more_than_a_burst():
    clock = Clock()
    rates = Rates(10.0, 2, clock=clock)
    rates.spend("a")
    clock.now = 1000.0
    rates.spend("a", 2)
    with pytest.raises(RateError):
        rates.spend("a")


def test_more_than_a_burst_at_once_costs_all_of_it():
    clock = Clock()
    rates = Rates(1.0, 4, clock=clock)
    rates.spend("a", 100)
    with pytest.raises(RateError, match="welcome in 1 s"):
        rates.spend("a")


def test_no_more_clients_are_remembered_than_allowed():
    rates = Rates(1.0, 1, most_clients=3, clock=Clock())
    for client in "abc":
        rates.spend(client)
    with pytest.raises(RateError):
        rates.spend("a")  # asked last now
    rates.spend("d")
    assert len(rates) == 3
    rates.spend("b")  # forgotten, so its bucket is full again
    with pytest.raises(RateError):
        rates.spend("d")
