"""Data-free distillation: synthesizer, the teacher's statistics, calibration without images."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.checkpoints import save_network
from compress.data.cache import PixelCache
from compress.data.damage import Damage
from compress.data.folders import open_folder
from compress.data.photos import Restoration
from compress.invented import (
    activation_ranges,
    calibration_cost,
    calibration_images,
    invent,
)
from compress.loop import Schedule, apply_update, make_optimizers, train
from compress.methods.data_free import data_free, noise_batches, noise_of, roughness
from compress.methods.likeness import Likeness
from compress.methods.statistics import forward_with_inputs, remembered, statistics_loss
from compress.models.blocks import initialize
from compress.models.synthesizer import Synthesizer, noise_map
from compress.models.unet import UnetGenerator, UnetWidths
from compress.pipeline import run as run_pipeline
from compress.recipe import CompressRecipe, load_recipe
from compress.stage import Options, run_stage
from deploy.artifacts import StudentExport
from deploy.calibration import calibration_digest
from tests.compress.conftest import Silent, tiny_generator, write_photos
from tests.compress.small import SmallGenerator, weights

NOISE = 6
BATCHES = noise_batches(noise=NOISE, size=32, batch_size=2, seed=3)


def maker(seed=0):
    torch.manual_seed(seed)
    return initialize(Synthesizer(NOISE, 4))


def learned(generator):
    """The generator after it has seen images: its BatchNorms remember them."""
    draw = torch.Generator().manual_seed(8)
    images = F.interpolate(torch.rand(4, 3, 8, 8, generator=draw) * 2 - 1, size=32)
    remember_the_last_batch(generator)
    with torch.no_grad():
        generator.train()(images)
    return generator.eval()


def remember_the_last_batch(network):
    """Running statistics take hundreds of steps to come near; here there are a few."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0


def data_free_case(**options):
    """DFAD, DDAD and MAD at once, with tiny networks."""
    teacher, student = learned(tiny_generator(8)), tiny_generator(4, seed=1)
    options = {"statistics_weight": 1.0, "momentum": 0.5, "synthesizer_every": 1} | options
    return data_free(teacher, student, maker(), **options)


def run(method, steps=2, at=BATCHES, **schedule):
    return list(train(method, at, Schedule(steps, **schedule), optimizers=make_optimizers(method)))


def values(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def equal(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def sgd(method, name, rate=0.1):
    own = [p for p in method.networks[name].parameters() if p.requires_grad]
    return torch.optim.SGD(own, lr=rate)


PAPERS_OF_DATA_FREE = {
    "dfad": {"statistics_weight": 0.0, "momentum": 0.0},
    "ddad": {"momentum": 0.0},
    "mad": {"statistics_weight": 0.0},
    "all": {},
    "smooth": {"smoothness_weight": 1.0},
    "terms": {"likeness": Likeness(imitation=1.0, ssim=1.0, total_variation=1e-4)},
}


def test_the_teacher_stays_as_it_is_and_so_do_the_students_statistics_for_the_synthesizer():
    teacher = learned(tiny_generator(8)).train()  # whatever mode it comes in
    student = tiny_generator(4, seed=1)
    method = data_free(teacher, student, maker(), statistics_weight=1.0, momentum=0.5)
    theirs = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    run(method, steps=6)
    assert all(torch.equal(theirs[name], t) for name, t in teacher.state_dict().items())
    assert teacher.training
    outputs = method.forward(BATCHES(1))
    ours = values(student.buffers())
    method.updates[1].objective(outputs)
    assert equal(ours, values(student.buffers()))
    assert student.training


def gap_of(method, teacher, student, noise):
    synthesizer = method.networks["synthesizer"]
    with torch.no_grad():
        invented = synthesizer(noise)
        return F.l1_loss(student.eval()(invented), teacher(invented)).item()


def test_the_synthesizer_widens_the_gap_and_the_student_closes_it():
    teacher, student = learned(tiny_generator(8)), tiny_generator(4, norm="instance", seed=1)
    method = data_free(teacher, student, maker(), synthesizer_every=1)
    noise = BATCHES(1)
    follow, widen = method.updates
    before = gap_of(method, teacher, student, noise.source)
    apply_update(widen, method.forward(noise), sgd(method, "synthesizer", 0.01))
    wider = gap_of(method, teacher, student, noise.source)
    assert wider > before
    apply_update(follow, method.forward(noise), sgd(method, "student", 0.01))
    assert gap_of(method, teacher, student, noise.source) < wider


def test_a_student_that_is_its_teacher_leaves_nothing_to_widen():
    teacher = learned(tiny_generator(4))
    method = data_free(teacher, teacher, maker(), synthesizer_every=1)
    losses = method.updates[1].objective(method.forward(BATCHES(1)))
    assert losses["discrepancy"].item() == 0.0


def test_the_synthesizer_learns_every_fifth_step():
    logged = run(data_free_case(synthesizer_every=5), steps=10)
    due = [step for step, losses in enumerate(logged, 1) if "synthesizer/discrepancy" in losses]
    assert due == [5, 10]
    assert set(logged[4]) == {
        "student/imitation",
        "synthesizer/discrepancy",
        "synthesizer/statistics",
    }


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=["dfad", "mad"])
def test_a_student_learns_real_images_that_neither_has_seen(options):
    teacher, student = SmallGenerator(seed=1).eval(), SmallGenerator(seed=2)
    draw = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(8, 3, 8, 8, generator=draw), size=32, mode="bicubic")
    real = smooth.clamp(0, 1) * 2 - 1

    def gap():
        with torch.no_grad():
            return F.l1_loss(student(real), teacher(real)).item()

    before = gap()
    run(data_free(teacher, student, maker(), **options), steps=300, learning_rate=1e-2)
    assert gap() < 0.5 * before


# --- MAD's average


def test_the_average_is_the_one_of_the_formula_and_the_student_sees_both():
    method = data_free_case(momentum=0.75)
    synthesizer, memory = method.networks["synthesizer"], method.networks["memory"]
    update = method.updates[1]
    first = next(synthesizer.parameters())
    want = None
    for _ in range(3):
        apply_update(update, method.forward(BATCHES(1)), sgd(method, "synthesizer"))
        now = first.detach().clone()
        want = now if want is None else 0.75 * want + 0.25 * now
        assert torch.allclose(next(memory.parameters()), want, atol=1e-6)
    outputs = method.forward(BATCHES(1))
    assert len(outputs.student) == len(outputs.teacher) == 4  # two of each
    assert torch.equal(outputs.batch.source[:2], outputs.images["invented"])
    assert not torch.equal(outputs.batch.source[2:], outputs.batch.source[:2])
    assert not outputs.batch.source.requires_grad


def test_without_momentum_there_is_no_average():
    method = data_free_case(momentum=0.0)
    assert "memory" not in method.networks
    assert len(method.forward(BATCHES(1)).student) == 2


class KilledError(Exception):
    """Stands in for SIGKILL."""


class Killing(Silent):
    """A progress that stops the run after some step."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def step(self, step, losses):
        super().step(step, losses)
        if step == self.last:
            raise KilledError


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path):
    def stage(method, out, last=None):
        run_stage(
            "data-free",
            method,
            BATCHES,
            Schedule(6, 1e-2),
            Options(2),
            student=method.networks["student"],
            out=out,
            run="a",
            progress=Killing(last),
        )

    unbroken, first, second = (data_free_case(synthesizer_every=2) for _ in range(3))
    stage(unbroken, tmp_path / "a")
    with pytest.raises(KilledError):
        stage(first, tmp_path / "b", last=3)
    stage(second, tmp_path / "b")
    for name, tensor in weights(unbroken).items():
        assert torch.equal(tensor, weights(second)[name]), name


# --- DDAD's statistics


def norm_of(x):
    """A BatchNorm that remembers just these values, (B, C, H, W)."""
    norm = nn.BatchNorm2d(x.shape[1]).eval()
    flat = x.detach().transpose(0, 1).flatten(1)
    norm.running_mean.copy_(flat.mean(1))
    norm.running_var.copy_(flat.var(1))
    return nn.Sequential(norm)


def distance(network, x):
    memories = remembered(network)
    _, entering = forward_with_inputs(network, x, [memory.layer for memory in memories])
    return statistics_loss(entering, memories).item()


def some_values():
    draw = torch.Generator().manual_seed(4)
    return torch.randn(4, 3, 5, 5, generator=draw) * torch.tensor([0.5, 2.0, 9.0])[:, None, None]


def test_the_same_statistics_are_at_no_distance():
    x = some_values()
    assert distance(norm_of(x), x) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("shift", [0.5, -2.0])
def test_a_shift_by_deviations_counts_its_square(shift):
    x = some_values()
    deviation = (x.transpose(0, 1).flatten(1).var(1) + 1e-5).sqrt()
    moved = x + shift * deviation[:, None, None]
    assert distance(norm_of(x), moved) == pytest.approx(shift**2, rel=1e-4)


@pytest.mark.parametrize("stretch", [0.25, 3.0])
def test_a_stretch_of_the_deviations_counts_the_square_of_what_it_adds(stretch):
    x = some_values()
    mean = x.transpose(0, 1).flatten(1).mean(1)[:, None, None]
    stretched = mean + stretch * (x - mean)
    assert distance(norm_of(x), stretched) == pytest.approx((stretch - 1) ** 2, rel=1e-3)


def test_the_scale_of_a_layer_does_not_matter_as_it_does_not_to_the_teacher():
    x = some_values()
    other = x.flip(0, 2) * 1.5 + 0.2
    assert distance(norm_of(100 * x), 100 * other) == pytest.approx(
        distance(norm_of(x), other), rel=1e-3
    )


def test_a_single_value_is_compared_by_its_mean_alone_and_stays_finite():
    x = torch.full((1, 2, 1, 1), 3.0, requires_grad=True)
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.fill_(1.0)
    network = nn.Sequential(norm)
    memories = remembered(network)
    loss = statistics_loss((x,), memories)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()  # towards the mean


def test_layers_count_alike():
    x = some_values()
    one = norm_of(x)[0]
    two = nn.Sequential(one, norm_of(one(x + 1.0))[0])
    assert [memory.layer for memory in remembered(two)] == ["0", "1"]
    first = distance(nn.Sequential(one), x + 1.0)
    assert distance(two, x + 1.0) == pytest.approx(first / 2, rel=1e-4)


def test_only_what_was_learned_is_remembered():
    fresh = tiny_generator(4)
    assert remembered(fresh) == ()
    assert remembered(tiny_generator(4, norm="instance")) == ()
    norms = [name for name, m in fresh.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [memory.layer for memory in remembered(learned(fresh))] == norms


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_statistics_of_a_teacher_that_remembers_nothing_are_refused(norm):
    with pytest.raises(ValueError, match=r"remembers nothing .* set statistics = 0, which is DFAD"):
        data_free(tiny_generator(4, norm=norm), tiny_generator(4), maker(), statistics_weight=1.0)


def test_a_layer_that_does_not_run_raises():
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    network.unused = nn.BatchNorm2d(3)
    network.forward = lambda x: network[0](x)
    with pytest.raises(KeyError, match="did not run its layers"):
        forward_with_inputs(network, torch.zeros(1, 3, 4, 4), ["unused"])
    with pytest.raises(KeyError, match="has no layers"):
        forward_with_inputs(network, torch.zeros(1, 3, 4, 4), ["norm"])


def test_the_synthesizer_of_a_unet_teacher_comes_nearer_to_its_statistics():
    torch.manual_seed(0)
    teacher = learned(initialize(UnetGenerator(UnetWidths.uniform(4, 4))))
    student = initialize(UnetGenerator(UnetWidths.uniform(2, 4)))
    method = data_free(
        teacher,
        student,
        maker(),
        discrepancy_weight=0.0,
        statistics_weight=1.0,
        synthesizer_every=1,
    )
    logged = run(method, steps=60, at=lambda _: BATCHES(1), learning_rate=5e-3)
    assert logged[-1]["synthesizer/statistics"] < 0.8 * logged[0]["synthesizer/statistics"]


# --- noise and images


def test_noise_is_normal_and_a_function_of_seed_and_step():
    noise = noise_of(1, (64, 8, 8, 8), seed=3)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(noise, noise_of(1, (64, 8, 8, 8), seed=3))
    assert not torch.equal(noise, noise_of(2, (64, 8, 8, 8), seed=3))
    assert not torch.equal(noise, noise_of(1, (64, 8, 8, 8), seed=4))
    assert torch.equal(BATCHES(5).source, BATCHES(5).source)


def test_noise_has_a_level_for_each_image_and_for_its_regions():
    noise = noise_of(1, (256, 4, 8, 8), seed=3)
    # independent values would leave 1/64 of the variance to the mean of an image
    assert float(noise.mean((2, 3)).var()) > 0.25
    halves = noise[..., :4].mean((2, 3)) - noise[..., 4:].mean((2, 3))
    assert float(halves.var()) > 2 * 2 / 32  # twice theirs
    single = noise_map((500, 2, 1, 1), torch.Generator().manual_seed(0))
    assert float(single.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (6, 6)])
def test_a_synthesizer_makes_images_of_any_multiple_of_sixteen(cells):
    noise = noise_map((2, NOISE, *cells), torch.Generator().manual_seed(0))
    images = maker()(noise)
    assert images.shape == (2, 3, 16 * cells[0], 16 * cells[1])
    assert float(images.detach().abs().max()) <= 1.0


def test_roughness_is_the_mean_step_between_neighbours():
    flat = torch.full((2, 3, 8, 8), 0.5)
    stripes = torch.tensor([-1.0, 1.0]).repeat(4).expand(2, 3, 8, 8)
    assert roughness(flat).item() == 0
    assert roughness(stripes).item() == pytest.approx(2.0)
    assert roughness(stripes.transpose(2, 3)).item() == pytest.approx(2.0)


def test_a_synthesizer_can_be_kept_smooth():
    rough, smooth = (
        data_free_case(statistics_weight=0.0, momentum=0.0, smoothness_weight=weight)
        for weight in (0.0, 10.0)
    )
    for method in (rough, smooth):
        run(method, steps=15, learning_rate=1e-2)
    found = [
        float(roughness(m.forward(BATCHES(1)).images["invented"].detach())) for m in (rough, smooth)
    ]
    assert found[1] < 0.7 * found[0]


def test_a_size_that_no_synthesizer_makes_says_which_one_does():
    with pytest.raises(ValueError, match=r"crop = 100, .* take 112"):
        noise_batches(noise=4, size=100, batch_size=1, seed=0)


def test_a_truth_of_invented_images_is_refused():
    with pytest.raises(ValueError, match="reconstruction = 5 compares with a truth"):
        data_free(
            tiny_generator(4), tiny_generator(4), maker(), likeness=Likeness(reconstruction=5.0)
        )


# --- calibration


def trained_networks():
    """A method's networks whose synthesizer has contrast."""
    method = data_free_case()
    remember_the_last_batch(method.networks["synthesizer"])
    run(method, steps=6, learning_rate=1e-2)
    with torch.no_grad():
        for network in (method.networks["synthesizer"], method.networks["memory"].module):
            network.model[-2].weight.mul_(8.0)
    return method.networks


def test_invented_images_come_from_both_and_are_the_same_every_time():
    networks = trained_networks()
    images = invent(networks, count=5, size=40, seed=1)
    assert images.shape == (5, 40, 40, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, invent(networks, count=5, size=40, seed=1))
    assert not np.array_equal(images, invent(networks, count=5, size=40, seed=2))
    alone = {name: network for name, network in networks.items() if name != "memory"}
    without = invent(alone, count=5, size=40, seed=1)
    same = [np.array_equal(a, b) for a, b in zip(images, without, strict=True)]
    assert same == [True, False, True, False, True]


def crops(seed, count=8, size=32, contrast=1.0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    return np.rint(128 + contrast * (small - 128.0)).clip(0, 255).astype(np.uint8)


def test_ranges_are_the_extremes_of_what_enters_a_layer_with_zero_inside():
    network = SmallGenerator(seed=1)
    images = np.full((2, 16, 16, 3), 255, np.uint8)
    images[1] = 204  # 0.6
    ranges = activation_ranges(network, images)
    assert list(ranges) == ["block.0.0", "block.1.0"]
    assert ranges["block.0.0"] == pytest.approx((0.0, 1.0))
    dark = activation_ranges(network, np.zeros((1, 16, 16, 3), np.uint8))
    assert dark["block.0.0"] == pytest.approx((-1.0, 0.0))


def test_calibration_on_the_same_images_costs_nothing():
    student, real = SmallGenerator(seed=1), crops(1)
    cost = calibration_cost(student, real, real, crops(2))
    assert cost.invented_db == cost.real_db
    assert cost.images == 8
    assert 30 < cost.real_db < 100  # eight bits are seen, and are enough


@pytest.mark.parametrize("contrast", [0.1, 30.0], ids=["too narrow", "as wide"])
def test_ranges_that_real_images_leave_cost_quality(contrast):
    student, real, judges = SmallGenerator(seed=1), crops(1), crops(2)
    cost = calibration_cost(student, crops(3, contrast=contrast), real, judges)
    if contrast < 1:
        assert cost.invented_db < cost.real_db - 5
        assert cost.beyond > 0.2
    else:
        assert cost.invented_db > cost.real_db - 5
        assert cost.beyond < 0.05


def test_the_warning_holds_what_was_measured():
    cost = calibration_cost(SmallGenerator(seed=1), crops(3, contrast=0.1), crops(1), crops(2))
    for figure in (f"{cost.invented_db:.1f} dB", f"{cost.real_db:.1f} dB", f"{cost.beyond:.2%}"):
        assert figure in cost.warning
    assert 'calibrate = "photos"' in cost.warning


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 2)
    damage = Damage(blur_px=(0.5, 1.0), noise=(5.0, 10.0), jpeg_quality=(40, 60))
    return Restoration(open_folder(tmp_path / "photos", "refuse"), PixelCache(64), damage)


def test_calibration_images_come_with_a_measured_warning(photos, caplog):
    networks = trained_networks()
    with caplog.at_level(logging.WARNING):
        images = calibration_images(networks, networks["student"], photos, count=8, size=64, seed=1)
    assert images.shape == (8, 64, 64, 3)
    assert calibration_digest(images) == calibration_digest(
        invent(networks, count=8, size=64, seed=1)
    )
    assert "INT8 is calibrated on 8 invented images" in caplog.text


def test_images_that_show_nothing_calibrate_nothing(photos):
    networks = trained_networks()
    with torch.no_grad():
        networks["synthesizer"].model[-2].weight.zero_()
    with pytest.raises(ValueError, match=r"unfit \(calibration image 0 is flat .* train longer"):
        calibration_images(networks, networks["student"], photos, count=8, size=64, seed=1)


# --- a whole run

DATA_FREE = """
[method]
name = "data_free"
imitation = 10.0
statistics = {statistics}
momentum = 0.5
synthesizer_every = 2
noise = 6
width = 4
"""


def recipe_of(workshop, *, statistics=0.0, calibration=8):
    text = (workshop / "tiny.toml").read_text()
    start, end = text.index("[method]"), text.index("[training]")
    text = text[:start] + DATA_FREE.format(statistics=statistics) + text[end:]
    text = text.replace("calibration_images = 4", f"calibration_images = {calibration}")
    # nothing is learned from images: the folder need not be there
    text = text.replace(f'train = "{workshop}/train"', 'train = "nowhere/at/all"')
    (workshop / "tiny.toml").write_text(text)
    return load_recipe(str(workshop / "tiny.toml"), CompressRecipe)[0]


@pytest.mark.slow
def test_a_recipe_needs_no_image_to_learn_from(workshop, cpu, caplog, monkeypatch):
    # six steps do not teach a synthesizer contrast, which is not what this is about
    monkeypatch.setattr("compress.invented.check_calibration", lambda pixels: ())
    save_network(workshop / "generator.safetensors", learned(tiny_generator(16)))
    out = workshop / "build" / "cpu" / "export"
    with caplog.at_level(logging.WARNING):
        export, made = run_pipeline(recipe_of(workshop, statistics=1.0), cpu, out, Silent())
    assert made
    assert export.calibration().shape == (8, 64, 64, 3)
    assert "INT8 is calibrated on 8 invented images" in caplog.text
    assert StudentExport.read(out).manifest.student_to_teacher is not None


@pytest.mark.slow
def test_importances_that_look_at_images_are_refused(workshop):
    recipe_of(workshop)
    path = workshop / "tiny.toml"
    text = path.read_text().replace('importance = "magnitude"', 'importance = "taylor"')
    path.write_text(text)
    with pytest.raises(ValueError, match="'taylor' looks at images, and data_free has none"):
        load_recipe(str(path), CompressRecipe)
