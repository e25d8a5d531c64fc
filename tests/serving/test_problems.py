import pytest
from starlette.requests import ClientDisconnect

from deploy.imaging import ImageError, ImageFormatError, ImageTooLargeError
from serving.models import NotReadyError
from serving.negotiate import WishError
from serving.problems import explain
from serving.rates import RateError
from serving.scheduling import BusyError, DeadlineError
from serving.uploads import UploadError
from serving.work import TranslationError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UploadError(408, "why"), 408),
        (WishError(406, "why"), 406),
        (ImageError("why"), 422),
        (ImageFormatError("why"), 415),
        (ImageTooLargeError("why"), 413),
        (RateError("why", retry_after_s=1), 429),
        (BusyError("why", retry_after_s=1), 503),
        (NotReadyError("why"), 503),
        (DeadlineError("why"), 504),
        (TranslationError("why"), 500),
    ],
)
def test_an_error_of_ours_explains_itself(error, status):
    assert explain(error) == (status, "why")


def test_a_connection_that_was_closed():
    assert explain(ClientDisconnect())[0] == 400


@pytest.mark.parametrize("error", [KeyError("secret/path"), OSError("secret/path")])
def test_nothing_is_said_of_the_inside(error):
    assert explain(error) == (500, "the server failed; its log says why")
