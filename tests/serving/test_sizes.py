import pytest

from deploy.imaging import ImageTooLargeError
from serving.sizes import plan_size


@pytest.mark.parametrize("wanted", ["native", "max"])
def test_what_fits_stays_as_it_is(wanted):
    assert plan_size(300, 200, wanted, 256, 60_000) == (300, 200)


def test_native_refuses_what_is_too_large_and_says_what_helps():
    said = "image is 201 x 300 = 60300 pixels; the limit is 60000; size=max shrinks it to fit"
    with pytest.raises(ImageTooLargeError, match=said):
        plan_size(300, 201, "native", 256, 60_000)


@pytest.mark.parametrize(
    ("size", "planned"),
    [
        ((512, 512), (256, 256)),
        ((1024, 512), (256, 128)),
        ((3000, 4000), (192, 256)),
        ((64, 32), (256, 128)),
        ((256, 256), (256, 256)),
        ((1, 1), (256, 256)),
        ((10_000, 1), (256, 1)),
    ],
)
def test_model_makes_the_longer_side_the_models(size, planned):
    assert plan_size(*size, "model", 256, 70_000) == planned


def test_model_cannot_pass_the_limit_either():
    with pytest.raises(ImageTooLargeError, match="256 x 256 = 65536 pixels; the limit is 1000"):
        plan_size(10, 10, "model", 256, 1000)


@pytest.mark.parametrize("height", [1, 2, 3, 47, 300, 1999, 4000, 100_000])
@pytest.mark.parametrize("width", [1, 5, 48, 301, 3000, 65_535])
@pytest.mark.parametrize("limit", [1, 7, 1000, 123_457])
def test_max_always_fits_and_keeps_the_aspect(height, width, limit):
    planned = plan_size(height, width, "max", 256, limit)

    assert min(planned) >= 1
    assert planned[0] * planned[1] <= limit
    assert planned[0] <= height
    assert planned[1] <= width
    if min(planned) > 20:
        assert planned[0] / planned[1] == pytest.approx(height / width, rel=0.05)
        assert planned[0] * planned[1] > 0.9 * min(limit, height * width)


@pytest.mark.parametrize("wanted", ["model", "max"])
def test_an_image_and_the_same_turned_are_planned_alike(wanted):
    assert (
        plan_size(311, 977, wanted, 256, 100_000) == plan_size(977, 311, wanted, 256, 100_000)[::-1]
    )
