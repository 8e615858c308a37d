"""Trace and log settings: read, changed, taken back."""

import pytest
from clients import refused


def values(client, found):
    """Trace settings as lists of texts; the HTTP client gives a text where there is one."""
    if client.is_grpc:
        return {name: value.get("value", []) for name, value in found["settings"].items()}
    return {
        name: value if isinstance(value, list) else [value] for name, value in found.items()
    }


def test_trace_settings(client):
    before = values(client, client.get_trace_settings())
    assert {"trace_level", "trace_rate", "trace_count"} <= set(before)
    settings = {"trace_rate": "7", "trace_level": ["TIMESTAMPS"]}
    changed = values(client, client.update_trace_settings(settings=settings))
    assert changed["trace_rate"] == ["7"]
    assert changed["trace_level"] == ["TIMESTAMPS"]
    assert values(client, client.get_trace_settings()) == changed
    cleared = {"trace_rate": None, "trace_level": None}
    assert values(client, client.update_trace_settings(settings=cleared)) == before


def test_trace_settings_of_a_model(client):
    server_wide = values(client, client.get_trace_settings())
    changed = client.update_trace_settings("simple", settings={"trace_rate": "9"})
    assert values(client, changed)["trace_rate"] == ["9"]
    assert values(client, client.get_trace_settings("simple"))["trace_rate"] == ["9"]
    assert values(client, client.get_trace_settings()) == server_wide
    client.update_trace_settings("simple", settings={"trace_rate": None})
    assert values(client, client.get_trace_settings("simple")) == server_wide


BAD = ({"trace_rate": "often"}, {"trace_level": ["EVERYTHING"]}, {"no_such_setting": "1"})


@pytest.mark.parametrize("settings", BAD)
def test_bad_trace_settings(client, settings):
    before = client.get_trace_settings()
    said = next(iter(settings))
    refused(client, "invalid", said, lambda: client.update_trace_settings(settings=settings))
    assert client.get_trace_settings() == before


def test_log_settings(client):
    before = client.get_log_settings()
    assert {"log_info", "log_warning", "log_error", "log_verbose_level"} <= set(before)
    changed = client.update_log_settings({"log_verbose_level": 1, "log_info": False})
    assert int(changed["log_verbose_level"]) == 1
    assert changed["log_info"] is False
    assert client.get_log_settings() == changed
    back = {name: before[name] for name in ("log_verbose_level", "log_info")}
    assert client.update_log_settings(back) == before


@pytest.mark.parametrize("settings", ({"log_verbose_level": -1}, {"log_everything": True}))
def test_bad_log_settings(client, settings):
    if client.is_grpc and -1 in settings.values():
        # The message of gRPC has no sign; its client raises before anything is sent.
        with pytest.raises(ValueError):
            client.update_log_settings(settings)
        return
    refused(client, "invalid", "log", lambda: client.update_log_settings(settings))
