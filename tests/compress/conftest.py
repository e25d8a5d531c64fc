import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from compress.checkpoints import save_network  # noqa: E402
from compress.models.discriminators import PatchDiscriminator  # noqa: E402
from compress.models.generators import (  # noqa: E402
    ResnetGenerator,
    ResnetWidths,
    initialize,
)
from devices.profile import load_profile  # noqa: E402
from tests.compress.small import Silent as Silent  # noqa: E402

RECIPE = """
verb = "compress"
name = "tiny"
description = "a recipe that takes seconds"
seed = 1
image_size = 64
calibration_images = 4
[data]
kind = "restoration"
train = "{folder}/train"
test = "{folder}/test"
[data.damage]
blur_px = [0.5, 1.0]
noise = [5.0, 10.0]
jpeg_quality = [40, 60]
[teacher]
generator = "{folder}/generator.safetensors"
discriminator = "{folder}/discriminator.safetensors"
[pruning]
macs_reduction = 2.0
importance = "magnitude"
[method]
name = "dcd"
dcd = 1.0
adversarial = 1.0
imitation = 10.0
reconstruction = 10.0
discriminator_every = 2
mode = "lsgan"
[training]
steps = 6
batch_size = 1
crop = 96
learning_rate = 0.001
decay_from = 0.5
checkpoint_every = 2
[floor]
psnr_db = 20.0
truth_drop_db = 3.0
"""


def tiny_generator(width=8, *, norm="batch", blocks=9, seed=0):
    torch.manual_seed(seed)
    return initialize(ResnetGenerator(ResnetWidths.uniform(width, blocks), norm=norm))


def tiny_discriminator(seed=0):
    torch.manual_seed(seed)
    return initialize(PatchDiscriminator(6, 4))


def write_photos(folder, count, *, size=(112, 128), seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")


def furnish(folder):
    write_photos(folder / "train", 2)
    write_photos(folder / "test", 1, seed=9)
    save_network(folder / "generator.safetensors", tiny_generator(16))
    save_network(folder / "discriminator.safetensors", tiny_discriminator())
    (folder / "tiny.toml").write_text(RECIPE.format(folder=folder))


@pytest.fixture
def workshop(tmp_path):
    """A folder with photos, a teacher and ``tiny.toml``."""
    furnish(tmp_path)
    return tmp_path


@pytest.fixture
def cpu():
    return load_profile("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sums are rounded otherwise on another number of threads, and exactness is tested."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_warn_always(True)  # in every test, not in the first that gives a reason
    yield
    torch.set_warn_always(False)
    torch.set_num_threads(threads)
