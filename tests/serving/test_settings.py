import re

import pytest

from serving.settings import ServingSettings, read_settings


def test_an_empty_environment_gives_the_defaults():
    assert read_settings({"PATH": "/bin", "HOME": "/"}) == ServingSettings()


def test_a_variable_of_another_room_is_not_ours():
    assert read_settings({"POCKETGAN_CACHE": "/var/cache"}) == ServingSettings()


def test_by_default_only_this_machine_is_answered():
    assert ServingSettings().host == "127.0.0.1"


def test_every_setting_has_a_variable():
    given = {
        "POCKETGAN_HOST": "::1",
        "POCKETGAN_PORT": "0",
        "POCKETGAN_MAX_BODY_BYTES": "1000",
        "POCKETGAN_MAX_PIXELS": "2000",
        "POCKETGAN_MAX_UPLOADS": "3",
        "POCKETGAN_MAX_QUEUE": "0",
        "POCKETGAN_BODY_TIMEOUT_S": "1.5",
        "POCKETGAN_WAIT_TIMEOUT_S": "2",
        "POCKETGAN_DRAIN_TIMEOUT_S": "4",
        "POCKETGAN_LOG_LEVEL": "debug",
    }
    settings = read_settings(given)

    assert settings == ServingSettings(
        host="::1",
        port=0,
        max_body_bytes=1000,
        max_pixels=2000,
        max_uploads=3,
        max_queue=0,
        body_timeout_s=1.5,
        wait_timeout_s=2.0,
        drain_timeout_s=4,
        log_level="debug",
    )
    assert len(given) == len(ServingSettings.model_fields)


def test_an_unknown_variable_is_named_with_the_one_that_was_meant():
    with pytest.raises(
        ValueError, match=r"no setting POCKETGAN_MAX_PIXEL; did you mean POCKETGAN_MAX_PIXELS\? "
    ):
        read_settings({"POCKETGAN_MAX_PIXEL": "1"})


def test_an_unknown_variable_is_answered_with_all_there_are():
    with pytest.raises(ValueError, match="no setting POCKETGAN_ZZZ; there are: ") as error:
        read_settings({"POCKETGAN_ZZZ": "1"})
    for field in ServingSettings.model_fields:
        assert f"POCKETGAN_{field.upper()}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POCKETGAN_PORT", "99999"),
        ("POCKETGAN_PORT", "http"),
        ("POCKETGAN_PORT", ""),
        ("POCKETGAN_MAX_PIXELS", "0"),
        ("POCKETGAN_MAX_BODY_BYTES", "20 MB"),
        ("POCKETGAN_MAX_QUEUE", "33"),
        ("POCKETGAN_BODY_TIMEOUT_S", "-1"),
        ("POCKETGAN_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r}: Input should be")):
        read_settings({name: value})
