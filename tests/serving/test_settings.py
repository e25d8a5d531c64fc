import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from serving.settings import ServingSettings, read_settings


def test_an_empty_environment_gives_the_defaults():
    assert read_settings({"PATH": "/bin", "HOME": "/"}) == ServingSettings()


def test_a_variable_of_another_room_is_not_ours():
    assert read_settings({"POCKETGAN_CACHE": "/var/cache"}) == ServingSettings()


def test_by_default_only_this_machine_is_answered():
    assert ServingSettings().host == "127.0.0.1"


GIVEN = {
    # variable: what is set, what that is
    "HOST": ("::1", "::1"),
    "PORT": ("0", 0),
    "MAX_BODY_BYTES": ("1000", 1000),
    "MAX_PIXELS": ("2000", 2000),
    "WHOLE_PIXELS": ("1500", 1500),
    "MAP_MEMORY_MIB": ("64", 64),
    "MAP_FOLDER": ("/var/tmp", Path("/var/tmp")),
    "MAX_DECODE_PIXELS": ("3000", 3000),
    "MAX_IMAGES": ("5", 5),
    "MAX_UPLOADS": ("3", 3),
    "MAX_QUEUE": ("0", 0),
    "MAX_QUEUE_PIXELS": ("5000", 5000),
    "MAX_QUEUE_BYTES": ("6000", 6000),
    "MAX_TOGETHER": ("1", 1),
    "INSTANCES": ("2", 2),
    "RATE_PER_S": ("0.5", 0.5),
    "RATE_BURST": ("3", 3),
    "BODY_TIMEOUT_S": ("1.5", 1.5),
    "WAIT_TIMEOUT_S": ("2", 2.0),
    "DRAIN_TIMEOUT_S": ("4", 4),
    "LOG_LEVEL": ("debug", "debug"),
    "WARM_SIZES": ("256,512x384", "256,512x384"),
    "LATENCY_POLICY": ("refuse", "refuse"),
    "DEGRADED_POLICY": ("unready", "unready"),
    "PROBATION_IMAGES": ("7", 7),
    "BUNDLES_DIR": ("/srv/bundles", Path("/srv/bundles")),
    "ADMIN_HOST": ("::1", "::1"),
    "ADMIN_PORT": ("0", 0),
    "ADMIN_TOKEN": ("sixteen characters", SecretStr("sixteen characters")),
    "TRUSTED_KEYS": ("/etc/pocketgan/keys", Path("/etc/pocketgan/keys")),
    "API_KEYS": ("one,two", SecretStr("one,two")),
    "API_KEYS_FILE": ("/etc/pocketgan/api", Path("/etc/pocketgan/api")),
    "CORS_ORIGINS": ("https://example.org", "https://example.org"),
    "MAX_STREAMS": ("2", 2),
    "STREAM_TIMEOUT_S": ("9", 9.0),
}


def test_every_setting_has_a_variable():
    settings = read_settings({f"POCKETGAN_{name}": text for name, (text, _) in GIVEN.items()})
    expected = {name.lower(): value for name, (_, value) in GIVEN.items()}
    assert settings == ServingSettings(**expected)
    assert set(expected) == set(ServingSettings.model_fields)


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
        ("POCKETGAN_MAX_QUEUE", "10001"),
        ("POCKETGAN_MAX_TOGETHER", "0"),
        ("POCKETGAN_INSTANCES", "0"),
        ("POCKETGAN_RATE_PER_S", "0"),
        ("POCKETGAN_BODY_TIMEOUT_S", "-1"),
        ("POCKETGAN_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r}: Input should be")):
        read_settings({name: value})
