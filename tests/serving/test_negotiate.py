import pytest

from serving.negotiate import Output, WishError, check_query, choose_output, choose_size


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "png"),
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/jpeg", "jpeg"),
        ("image/jpg", "jpeg"),
        ("IMAGE/WEBP", "webp"),
        ("image/webp, image/png", "png"),
        ("image/webp, */*", "webp"),
        ("image/webp;q=0.9, */*;q=0.8", "webp"),
        ("image/png;q=0.1, image/jpeg;q=0.2", "jpeg"),
        ("image/png;q=0, */*", "jpeg"),
        ("image/png; q=0, image/jpeg;q=0, */*;q=0.1", "webp"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "webp"),
        ("text/html, image/jpeg;level=1;q=0.5", "jpeg"),
        ("image/png;q=much, image/webp;q=0.1", "webp"),
        ("image/png;q=2, image/webp;q=0.1", "webp"),
        ("image/png;q=nan, image/webp;q=0.1", "webp"),
        (",;,image/webp,", "webp"),
    ],
)
def test_accept_is_weighed(accept, chosen):
    output = choose_output(accept, {})
    assert output == Output(chosen)
    assert output.media_type == f"image/{chosen}"


@pytest.mark.parametrize("accept", ["text/html", "image/avif", "*/*;q=0", "image/png;q=0"])
def test_where_nothing_fits_the_answer_says_what_there_is(accept):
    said = "there are image/png, image/jpeg, image/webp to be had"
    with pytest.raises(WishError, match=said) as refused:
        choose_output(accept, {})
    assert refused.value.status == 406


def test_a_long_header_is_not_repeated_whole():
    with pytest.raises(WishError) as refused:
        choose_output("x/y," * 5000, {})
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("asked", "chosen"), [("png", "png"), ("JPEG", "jpeg"), ("jpg", "jpeg"), ("webp", "webp")]
)
def test_the_query_wins_over_the_header(asked, chosen):
    assert choose_output("text/html", {"format": asked}).format == chosen


def test_a_format_that_is_none():
    with pytest.raises(WishError, match="format='gif': it is one of png, jpeg, webp") as refused:
        choose_output(None, {"format": "gif"})
    assert refused.value.status == 400


@pytest.mark.parametrize("quality", [1, 75, 100])
def test_quality(quality):
    query = {"format": "webp", "quality": str(quality)}
    assert choose_output(None, query) == Output("webp", quality)
    assert choose_output("image/jpeg", {"quality": str(quality)}).quality == quality


@pytest.mark.parametrize("quality", ["0", "101", "-1", "9.5", "high", "", " 5", "1_0", "\u0665"])
def test_a_quality_that_is_none(quality):
    with pytest.raises(WishError, match="it is a whole number from 1 to 100") as refused:
        choose_output(None, {"format": "jpeg", "quality": quality})
    assert refused.value.status == 400


def test_a_png_has_no_quality():
    said = "quality=80 is for jpeg and webp, and the answer is png, .*: ask for format=jpeg"
    with pytest.raises(WishError, match=said):
        choose_output(None, {"quality": "80"})


@pytest.mark.parametrize("size", ["native", "model", "max"])
def test_size(size):
    assert choose_size({"size": size}) == size


def test_size_is_native_unless_asked():
    assert choose_size({}) == "native"


def test_a_size_that_is_none():
    with pytest.raises(WishError, match="size='large': it is one of native, model, max"):
        choose_size({"size": "large"})


def test_a_misspelt_parameter_is_noticed():
    known = ("format", "quality", "size")
    check_query(["format", "size"], known)
    with pytest.raises(WishError, match="no parameter 'fromat'; did you mean format\\? there are"):
        check_query(["fromat"], known)
    with pytest.raises(WishError, match="no parameter 'x'; there are: format, quality, size"):
        check_query(["x"], known)
