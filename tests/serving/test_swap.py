import gc
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from devices.profile import LatencyBudget
from devices.session import DeviceError, StubSession
from serving import swap as room
from serving.budget import RUNS
from serving.models import NotReadyError, read_bundle
from serving.settings import ServingSettings
from serving.swap import Models, SwapError
from serving.trial import Trial
from serving.work import Job, TranslationError
from tests.pictures import encode_png

QUICK = {"latency_policy": "off", "max_together": 1}


class Runtime:
    """Opens stub engines by what their file says, and remembers them weakly."""

    def __init__(self):
        self.opened = []
        self.trimmed = []
        self.gate = threading.Event()
        self.gate.set()
        self.opening = threading.Event()

    def __call__(self, engine, profile, *, backend, precision):
        kind = engine.read_bytes().split()[0].decode()
        self.opening.set()
        self.gate.wait(10)
        if kind == "unreadable":
            raise DeviceError("the runtime cannot read it")
        session = Engine(kind, self.trimmed)
        self.opened.append(weakref.ref(session))
        return session


class Engine:
    """Makes negatives; ``late`` ones fail once they serve, ``wrong`` ones make something else."""

    def __init__(self, kind, trimmed):
        self.kind = kind
        self.serves = False
        self.trimmed = trimmed

    def run(self, images):
        if self.kind == "wrong":
            return images
        if self.kind == "late" and images.shape[2:] != (32, 32):
            raise DeviceError("out of something")
        return -images

    def trim(self):
        self.trimmed.append(self.kind)


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def make(seal_bundle, tmp_path):
    """Put a bundle with an engine into the folder of bundles."""
    folder = tmp_path / "bundles"
    folder.mkdir()

    def bundle(name, engine, **changes):
        seal_bundle(engine=f"{engine} {name}".encode(), **changes).rename(folder / name)
        return folder / name

    return bundle


@pytest.fixture
def serving(make, runtime, tmp_path):
    """Models that serve ``first``, with others beside it."""

    def start(**settings):
        first = make("first", "good")
        options = QUICK | {"bundles_dir": tmp_path / "bundles"} | settings
        models = Models(read_bundle(first), ServingSettings(**options), runtime)
        models.start()
        return models

    return start


@pytest.fixture
def large(photo):
    """An image of another size than the profile's."""
    return encode_png(photo(64, 64))


def test_nothing_serves_before_the_start(make, runtime, png):
    models = Models(read_bundle(make("first", "good")), ServingSettings(**QUICK), runtime)
    for ask in (lambda: models.translator, lambda: models.current, models.readiness):
        with pytest.raises(NotReadyError, match="the engine is warming up; try again in a second"):
            ask()
    assert models.view().current is None
    digest = models.digest

    models.start()

    assert models.translator.translate(Job(png)).digest == digest == models.digest
    assert models.readiness().status == "ready"
    assert models.bundle.path.name == models.view().current.bundle == "first"


def test_a_first_model_that_cannot_start_stays_closed(make, runtime):
    models = Models(read_bundle(make("first", "unreadable")), ServingSettings(**QUICK), runtime)
    with pytest.raises(DeviceError, match="the runtime cannot read it"):
        models.start()
    with pytest.raises(NotReadyError, match="the engine failed its start; the server's log says"):
        _ = models.translator
    with pytest.raises(NotReadyError):
        models.reload()


def test_a_swap_and_the_way_back(serving, make, png, caplog):
    caplog.set_level("INFO", logger="serving.swap")
    models = serving()
    make("second", "good")
    first = models.digest

    view = models.use("second")

    assert (view.current.bundle, view.previous.bundle) == ("second", "first")
    assert (view.swaps, view.refused, view.rollbacks) == (1, 0, 0)
    assert view.last.startswith("swapped to negative (sha256:")
    assert models.translator.translate(Job(png)).digest == view.current.digest != first
    assert view.last in caplog.text

    view = models.rollback()
    assert (view.current.bundle, view.previous.bundle) == ("first", "second")
    assert models.digest == first
    assert view.last.startswith("rolled back to negative (sha256:")
    assert models.rollback().current.bundle == "second"  # and forth
    assert models.view().rollbacks == 2


def test_the_previous_model_needs_no_file(serving, make, png):
    models = serving()
    first = models.bundle.path
    make("second", "good")
    models.use("second")
    for path in first.iterdir():
        path.unlink()
    models.rollback()
    assert models.translator.translate(Job(png)).digest == models.digest


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ("unreadable", "refused, and nothing changed: the runtime cannot read it"),
        ("wrong", "does not reproduce the golden pairs"),
    ],
)
def test_a_broken_bundle_is_refused_as_often_as_it_is_offered(serving, make, png, engine, sentence):
    models = serving()
    make("second", "good")
    make("broken", engine)
    models.use("second")
    before = models.view()

    for _ in range(10):
        with pytest.raises(SwapError, match=sentence) as refused:
            models.use("broken")
        assert refused.value.status == 422
        assert models.translator.translate(Job(png)).digest == before.current.digest

    after = models.view()
    assert after.refused == 10
    assert (after.current, after.previous, after.swaps) == (before.current, before.previous, 1)
    assert sentence in after.last


def test_a_damaged_bundle_is_refused(serving, make):
    models = serving()
    engine = make("damaged", "good") / "engine.onnx"
    engine.write_bytes(b"good other")
    with pytest.raises(SwapError, match=r"engine\.onnx does not match its digest"):
        models.use("damaged")


def test_what_nobody_foresaw_is_refused_too_and_the_log_has_it_all(
    serving, make, caplog, monkeypatch
):
    models = serving()
    make("second", "good")
    monkeypatch.setattr(room, "load_model", lambda *_, alone: {}["nothing"])
    with pytest.raises(SwapError, match="refused, and nothing changed: 'nothing'"):
        models.use("second")
    assert "Traceback" in caplog.text


def test_a_bundle_over_its_budget_is_refused_by_policy(serving, make, manifest):
    models = serving(latency_policy="refuse")
    tight = LatencyBudget(p50_ms=1e-6, p90_ms=1e-6, p99_ms=1e-6)
    make("slow", "good", profile=manifest.profile.model_copy(update={"budget": tight}))
    with pytest.raises(SwapError, match="the budget is 1e-06 ms"):
        models.use("slow")


def test_the_engine_in_service_keeps_still_while_the_next_is_timed(
    serving, make, runtime, monkeypatch
):
    models = serving(latency_policy="warn")
    instances, turns = models.translator.instances, []
    real = instances.turn

    def turn():
        turns.append(1)
        return real()

    monkeypatch.setattr(instances, "turn", turn)
    make("second", "good")
    models.use("second")
    assert len(turns) == RUNS + 1  # and one to let it rest


def test_a_bundle_that_nobody_trusted_signed_is_refused(serving, make):
    models = serving()
    make("second", "good")

    class Trusted:
        def verify(self, folder):
            raise room.BundleError(f"{folder.name} is not signed")

    models._trusted = Trusted()
    with pytest.raises(SwapError, match="second is not signed"):
        models.use("second")


@pytest.mark.parametrize(
    "name", ["other", "../first", "/etc", "", ".", "..", "first/", "a\x00b", "x" * 200]
)
def test_only_names_in_the_folder_of_bundles_exist(serving, tmp_path, name):
    models = serving()
    (tmp_path / "bundles" / ".hidden").mkdir()
    with pytest.raises(SwapError, match=r"no bundle .*; there are: first$") as refused:
        models.use(name)
    assert refused.value.status == 404
    assert models.view().refused == 0


def test_without_a_folder_of_bundles_nothing_can_be_named(serving):
    with pytest.raises(SwapError, match="set POCKETGAN_BUNDLES_DIR, or reload") as refused:
        serving(bundles_dir=None).use("first")
    assert refused.value.status == 409


def test_a_folder_of_bundles_that_is_not_there_has_none(serving, tmp_path):
    models = serving(bundles_dir=tmp_path / "elsewhere")
    with pytest.raises(SwapError, match="no bundle 'first'; there are: none"):
        models.use("first")


def test_going_back_without_a_previous_model(serving):
    with pytest.raises(SwapError, match="there is no previous model to go back to") as refused:
        serving().rollback()
    assert refused.value.status == 409


def test_a_reload_follows_the_link_that_the_server_was_started_with(make, runtime, tmp_path, png):
    one, two = make("one", "good"), make("two", "good")
    link = tmp_path / "current"
    link.symlink_to(one)
    models = Models(read_bundle(link), ServingSettings(**QUICK), runtime)
    models.start()

    view = models.reload()
    assert (view.swaps, len(runtime.opened)) == (0, 1)  # the same: nothing to do
    assert view.last.endswith("serves already")

    link.unlink()
    link.symlink_to(two)
    view = models.reload()
    assert (view.current.bundle, view.swaps) == ("two", 1)


def test_a_reload_reads_a_folder_that_was_written_again(serving, seal_bundle, png):
    models = serving()
    path = models.bundle.path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    seal_bundle(engine=b"good again").rename(path)
    assert models.reload().swaps == 1
    assert models.translator.translate(Job(png)).digest == f"sha256:{models.bundle.digest}"


def test_one_change_at_a_time(serving, make, runtime):
    models = serving()
    make("second", "good")
    runtime.gate.clear()
    runtime.opening.clear()
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(models.use, "second")
        assert runtime.opening.wait(10)
        for change in (models.reload, models.rollback, lambda: models.use("second")):
            with pytest.raises(SwapError, match=r"another change .* is under way") as refused:
                change()
            assert refused.value.status == 409
        runtime.gate.set()
        assert swapping.result(10).swaps == 1


def test_an_image_that_is_being_translated_finishes_on_its_model(make, tmp_path, png):
    inside, go_on = threading.Event(), threading.Event()

    def opener(engine, profile, *, backend, precision):
        first = engine.parent.name == "first"

        def run(images):
            if first and images.shape[2:] == (64, 64):
                inside.set()
                assert go_on.wait(10)
            return -images

        return StubSession(run)

    settings = ServingSettings(bundles_dir=tmp_path / "bundles", **QUICK)
    models = Models(read_bundle(make("first", "good")), settings, opener)
    make("second", "good")
    models.start()
    first = models.digest
    job = Job(encode_png(np.zeros((64, 64, 3), np.uint8)))
    with ThreadPoolExecutor(2) as pool:
        old = pool.submit(lambda: models.translator.translate(job))
        assert inside.wait(10)
        swapping = pool.submit(models.use, "second")
        end = time.monotonic() + 10
        while models.digest == first:
            assert time.monotonic() < end
            time.sleep(0.001)
        new = models.translator.translate(Job(png))
        assert not swapping.done()  # the old engine rests once its image is done
        go_on.set()
        assert old.result(10).digest == first != new.digest
        assert swapping.result(10).current.digest == new.digest


def test_old_engines_are_freed_and_the_previous_one_rests(serving, make, runtime, png):
    models = serving()
    for name in ("second", "third", "fourth"):
        make(name, "good")
        models.use(name)
        models.translator.translate(Job(png))
    gc.collect()
    alive = [engine() is not None for engine in runtime.opened]
    assert alive == [False, False, True, True]
    assert len(runtime.trimmed) == 3  # each as it stopped serving


def test_refused_engines_are_freed(serving, make, runtime):
    models = serving()
    make("broken", "wrong")
    for _ in range(3):
        with pytest.raises(SwapError):
            models.use("broken")
    gc.collect()
    assert [engine() is not None for engine in runtime.opened] == [True, False, False, False]


def test_an_engine_that_fails_in_service_is_taken_out_by_itself(
    serving, make, runtime, large, caplog, monkeypatch
):
    # what pytest remembers of a log holds its tracebacks, and those hold the engine
    monkeypatch.setattr(logging.getLogger("serving.translator"), "disabled", True)
    models = serving(probation_images=4)
    first = models.digest
    make("late", "late")
    models.use("late")

    for _ in range(3):  # more than half of four
        with pytest.raises(TranslationError):
            models.translator.translate(Job(large))

    assert models.translator.translate(Job(large)).digest == first
    view = models.view()
    assert (view.current.bundle, view.previous, view.rollbacks) == ("first", None, 1)
    assert "failed on too many of its first images, rolled back to negative" in caplog.text
    gc.collect()
    assert [engine() is not None for engine in runtime.opened] == [True, False]


def test_an_engine_that_fails_now_and_then_stays(serving, make, large, png):
    models = serving(probation_images=4)
    make("late", "late")
    models.use("late")
    for _ in range(4):
        with pytest.raises(TranslationError):
            models.translator.translate(Job(large))
        models.translator.translate(Job(png))
    assert models.view().current.bundle == "late"


def test_a_first_model_has_nothing_behind_it(make, runtime, large):
    settings = ServingSettings(probation_images=1, **QUICK)
    models = Models(read_bundle(make("late", "late")), settings, runtime)
    models.start()
    for _ in range(3):
        with pytest.raises(TranslationError):
            models.translator.translate(Job(large))
    assert models.view().rollbacks == 0


def test_no_probation_where_none_is_wanted(serving, make, large):
    models = serving(probation_images=0)
    make("late", "late")
    models.use("late")
    for _ in range(30):
        with pytest.raises(TranslationError):
            models.translator.translate(Job(large))
    assert models.view().current.bundle == "late"


def test_a_trial_that_is_over_does_not_touch_a_later_model(serving, make, large):
    models = serving(probation_images=1)
    make("late", "late")
    make("third", "good")
    models.use("late")
    late = models.translator
    models.use("third")
    with pytest.raises(TranslationError):
        late.translate(Job(large))  # one that was under way
    assert models.view().current.bundle == "third"


def test_a_trial_fails_once():
    failed = []
    trial = Trial(10, failed.append)
    for _ in range(5):
        trial.told(False)
    assert failed == []
    for _ in range(5):
        trial.told(False)
    assert failed == [trial]


@pytest.mark.parametrize("policy", ["report", "unready"])
def test_a_degraded_engine_is_reported_or_unready(serving, policy):
    models = serving(degraded_policy=policy)
    for _ in range(60):
        models.current.watch.ran((1, 3, 32, 32), 50.0)
    if policy == "report":
        readiness = models.readiness()
        assert readiness.status == "degraded"
        assert "p50 is 50.00 ms, the budget is 5 ms" in readiness.detail
    else:
        with pytest.raises(NotReadyError, match=r"slower than its budget: p50 is 50\.00 ms"):
            models.readiness()


def test_fifty_swaps_under_load_lose_no_image(serving, make, runtime, png):
    models = serving()
    make("second", "good")
    make("broken", "wrong")
    stop = threading.Event()

    def load():
        answers = []
        while not stop.is_set():
            answers.append(models.translator.translate(Job(png)).digest)
        return answers

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(load) for _ in range(3)]
        for n in range(50):
            models.use(("second", "first")[n % 2])
            if n % 5 == 0:
                with pytest.raises(SwapError):
                    models.use("broken")
        stop.set()
        answers = [digest for client in clients for digest in client.result(10)]
    assert models.view().swaps == 50
    assert models.view().refused == 10
    assert len(set(answers)) == 2
    gc.collect()
    assert sum(engine() is not None for engine in runtime.opened) == 2
