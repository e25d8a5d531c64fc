"""The service as a whole: who waits, who is sent away, and what becomes of those who leave."""

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from deploy.imaging import ImageError, decode
from devices.session import StubSession
from serving.lines import Load
from serving.negotiate import Output
from serving.scheduling import BusyError, DeadlineError
from serving.service import Service, workers_for
from serving.settings import ServingSettings
from serving.sizes import plan_size
from serving.translator import Translator
from serving.work import GoneError, Job
from tests.pictures import encode_png


class Gate:
    """A session that works only while the test lets it, and says what it saw."""

    def __init__(self):
        self.open = threading.Event()
        self.seen = []

    def run(self, images):
        self.seen.append(round(float(images[0, 0, 0, 0] + 1) * 127.5))
        assert self.open.wait(20)
        return -images


class Watcher:
    """Remembers what an observer is told, in one word each."""

    def __init__(self):
        self.said = []

    def accepted(self, pixels):
        self.said.append(pixels)

    def refused(self, reason):
        self.said.append(reason)

    def abandoned(self):
        self.said.append("abandoned")

    def finished(self, translation):
        self.said.append(translation.batch)

    def failed(self, error):
        self.said.append(type(error).__name__)


def plain(level, side=32):
    return Job(encode_png(np.full((side, side, 3), level, np.uint8)))


@pytest.fixture
def service_of(manifest):
    """A service with one worker, which ends with the test."""

    @asynccontextmanager
    async def start(session, *, batch=1, watcher=None, workers=1, **limits):
        settings = ServingSettings(**limits)
        translator = Translator(
            [session],
            manifest.model,
            manifest.profile,
            digest="sha256:0",
            max_pixels=settings.max_pixels,
            batch=batch,
        )
        service = Service(
            lambda: translator, settings, observer=watcher or Watcher(), workers=workers
        )
        service.start()
        try:
            yield service
        finally:
            if isinstance(session, Gate):
                session.open.set()
            assert await service.drain(20)

    return start


async def until(true):
    """Wait for another thread."""
    for _ in range(4000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


async def begun(service, gate, job=None):
    """A request whose image the engine works on."""
    before = len(gate.seen)
    task = asyncio.create_task(service.translate(job or plain(0), client="first"))
    await until(lambda: len(gate.seen) > before)
    return task


def waiting(service, job, **options):
    options = {"client": "a"} | options
    return asyncio.create_task(service.translate(job, **options))


def test_an_image_is_translated(service_of):
    async def scenario():
        watcher = Watcher()
        async with service_of(StubSession(), watcher=watcher) as service:
            done = await service.translate(plain(200), client="a")
        assert decode(done.image)[0, 0, 0] == 55
        assert done.queue_ms >= 0
        assert watcher.said == [32 * 32, 1]

    asyncio.run(scenario())


def test_whatever_goes_wrong_is_told_to_who_asked_and_the_worker_lives_on(service_of):
    async def scenario():
        watcher = Watcher()
        async with service_of(StubSession(lambda images: 1 / 0), watcher=watcher) as service:
            with pytest.raises(ImageError):
                await service.translate(Job(b"nonsense"), client="a")
            for _ in range(3):
                with pytest.raises(RuntimeError, match="the engine failed on an image of 32 x 32"):
                    await service.translate(plain(1), client="a")
        assert watcher.said == [1, "ImageFormatError", *[32 * 32, "TranslationError"] * 3]

    asyncio.run(scenario())


def test_without_a_translator_every_image_of_the_batch_is_told(manifest):
    def broken():
        raise LookupError("nothing serves")

    async def scenario():
        service = Service(broken, ServingSettings(), workers=1)
        service.start()
        with pytest.raises(LookupError, match="nothing serves"):
            await service.translate(Job(b"nonsense"), client="a")
        assert await service.drain(20)

    asyncio.run(scenario())


def test_an_observer_that_fails_costs_nobody_an_answer(service_of, caplog):
    class Clumsy(Watcher):
        def finished(self, translation):
            raise OSError("no space left on the disk")

    async def scenario():
        async with service_of(StubSession(), watcher=Clumsy()) as service:
            for _ in range(3):
                assert (await service.translate(plain(1), client="a")).image

    asyncio.run(scenario())
    assert "no space left on the disk" in caplog.text


def test_a_translator_that_goes_away_is_told_to_those_who_wait(service_of, manifest):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            first = await begun(service, gate)
            second = waiting(service, plain(1))
            await asyncio.sleep(0)

            def gone():
                raise LookupError("nothing serves")

            service._current = gone
            gate.open.set()
            assert (await first).image
            with pytest.raises(LookupError, match="nothing serves"):
                await second

    asyncio.run(scenario())


def test_clients_take_turns(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            tasks = [await begun(service, gate)]
            for level, client in enumerate(["a", "a", "a", "b"], start=1):
                tasks.append(waiting(service, plain(level), client=client))
                await asyncio.sleep(0)
            gate.open.set()
            await asyncio.gather(*tasks)
        assert gate.seen == [0, 1, 4, 2, 3]

    asyncio.run(scenario())


def test_a_deadline_is_told_when_it_passes_though_the_engine_is_busy(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            first = await begun(service, gate)
            with pytest.raises(DeadlineError, match=r"in time for an answer within 0\.02 s"):
                await service.translate(plain(1), client="a", timeout_s=0.02)
            assert not first.done()
            gate.open.set()
            await first
        assert gate.seen == [0]

    asyncio.run(scenario())


def test_what_is_begun_before_its_deadline_is_answered_after_it(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            task = waiting(service, plain(7), timeout_s=0.05)
            await until(lambda: gate.seen)
            await asyncio.sleep(0.06)
            gate.open.set()
            assert decode((await task).image)[0, 0, 0] == 248

    asyncio.run(scenario())


def test_no_client_waits_longer_than_the_server_allows(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate, wait_timeout_s=0.02) as service:
            await begun(service, gate)
            with pytest.raises(DeadlineError, match=r"answer within 0\.02 s"):
                await service.translate(plain(1), client="a", timeout_s=3600)

    asyncio.run(scenario())


def test_one_too_many_is_refused_at_once(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate, max_queue=1) as service:
            tasks = [await begun(service, gate), waiting(service, plain(1))]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match=r"too many images wait already \(1, of 1024 pix"):
                await service.translate(plain(2), client="a")
            gate.open.set()
            await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_bodies_that_wait_are_counted(service_of):
    async def scenario():
        gate, job = Gate(), plain(1)
        async with service_of(gate, max_queue_bytes=2 * len(job.data) - 1) as service:
            tasks = [await begun(service, gate), waiting(service, job)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="too many images wait already"):
                await service.translate(plain(1), client="a")
            gate.open.set()
            await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_an_image_weighs_what_the_model_will_see_of_it(service_of):
    def model_size(height, width):
        return plan_size(height, width, "model", 16, 10**6)

    async def weight(service, job):
        task = waiting(service, job)
        await asyncio.sleep(0)
        pixels = service.scheduler.waiting.pixels
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert service.scheduler.waiting == Load()
        return pixels

    async def scenario():
        gate = Gate()
        async with service_of(gate, max_pixels=10_000) as service:
            await begun(service, gate)
            data = plain(0, side=33).data
            assert await weight(service, Job(data)) == 36 * 36  # padded
            assert await weight(service, Job(data, plan=model_size)) == 16 * 16
            assert await weight(service, Job(data[:20])) == 10_000  # who knows
            assert await weight(service, Job(b"nonsense")) == 1
            assert await weight(service, plain(0, side=101)) == 1  # refused once it is opened

    asyncio.run(scenario())


def test_a_client_that_leaves_takes_its_image_along(service_of):
    async def scenario():
        gate, watcher, left = Gate(), Watcher(), asyncio.Event()
        async with service_of(gate, watcher=watcher) as service:
            first = await begun(service, gate)
            task = waiting(service, plain(1), gone=left.wait)
            await asyncio.sleep(0)
            left.set()
            with pytest.raises(GoneError):
                await task
            assert service.scheduler.waiting == Load()
            gate.open.set()
            await first
        assert gate.seen == [0]
        assert "abandoned" in watcher.said

    asyncio.run(scenario())


def test_a_client_that_leaves_while_the_engine_works_is_not_encoded_for(service_of):
    async def scenario():
        gate, watcher, left = Gate(), Watcher(), asyncio.Event()
        async with service_of(gate, watcher=watcher) as service:
            job = Job(plain(3).data, Output("no such format"))  # encoding it would be an error
            task = waiting(service, job, gone=left.wait)
            await until(lambda: gate.seen)
            left.set()
            with pytest.raises(GoneError):
                await task
            gate.open.set()
            assert await asyncio.to_thread(service.scheduler.wait_until_idle, 20)
        assert watcher.said == [32 * 32, "abandoned"]

    asyncio.run(scenario())


def test_cancelling_is_leaving(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            await begun(service, gate)
            task = waiting(service, plain(1))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert service.scheduler.waiting == Load()

    asyncio.run(scenario())


def test_a_look_out_that_fails_is_taken_for_a_client_that_left(service_of):
    async def broken():
        raise OSError("the socket is gone")

    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            await begun(service, gate)
            with pytest.raises(GoneError):
                await service.translate(plain(1), client="a", gone=broken)

    asyncio.run(scenario())


def test_images_of_one_shape_that_wait_are_run_together(service_of):
    async def scenario():
        gate, watcher = Gate(), Watcher()
        async with service_of(gate, batch=4, watcher=watcher) as service:
            tasks = [await begun(service, gate, plain(0, side=48))]
            for level in range(6):
                tasks.append(waiting(service, plain(level), client=f"client {level}"))
                await asyncio.sleep(0)
            gate.open.set()
            answers = await asyncio.gather(*tasks)
        levels = [decode(done.image)[0, 0, 0] for done in answers[1:]]
        assert levels == [255, 254, 253, 252, 251, 250]
        assert [done.batch for done in answers] == [1, 4, 4, 4, 4, 2, 2]

    asyncio.run(scenario())


def test_draining_answers_what_was_accepted_and_takes_nothing_more(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            tasks = [await begun(service, gate), waiting(service, plain(1))]
            await asyncio.sleep(0)
            drained = asyncio.create_task(service.drain(20))
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="the server is shutting down; try again soon"):
                await service.translate(plain(2), client="a")
            gate.open.set()
            assert await drained
            assert len(await asyncio.gather(*tasks)) == 2

    asyncio.run(scenario())


def test_draining_has_an_end(service_of):
    async def scenario():
        gate = Gate()
        async with service_of(gate) as service:
            first = await begun(service, gate)
            second = waiting(service, plain(1))
            await asyncio.sleep(0)
            assert not await service.drain(0.01)
            with pytest.raises(BusyError, match="shutting down"):
                await second
            gate.open.set()
            await first

    asyncio.run(scenario())


def test_the_loop_may_be_gone_when_the_answer_comes(manifest):
    gate = Gate()
    settings = ServingSettings()
    translator = Translator(
        [gate], manifest.model, manifest.profile, digest="", max_pixels=settings.max_pixels
    )
    service = Service(lambda: translator, settings, workers=1)
    service.start()

    async def leave():
        await begun(service, gate)

    asyncio.run(leave())
    gate.open.set()
    assert service.scheduler.wait_until_idle(20)
    assert asyncio.run(service.drain(20))


@pytest.mark.parametrize(
    ("instances", "cores", "threads"), [(1, 1, 1), (2, 1, 2), (1, 2, 2), (3, 16, 4)]
)
def test_one_worker_decodes_while_the_engine_works(instances, cores, threads):
    assert workers_for(instances, cores) == threads
