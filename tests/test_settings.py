from __future__ import annotations

import pytest
from pydantic import ValidationError

from onestroke.settings import Settings


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTROKE_PORT", "9001")
    monkeypatch.setenv("ONESTROKE_ALLOWED_HOSTS", "a.example, b.example")
    settings = Settings()
    assert settings.port == 9001
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_a_flag_goes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTROKE_PORT", "9001")
    assert Settings(port=9002).port == 9002


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).is_loopback is loopback


def test_models_are_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().model == ("auto",)
    assert Settings(model="sd15").model == ("sd15",)
    monkeypatch.setenv("ONESTROKE_MODEL", "embedded, sd15")
    assert Settings().model == ("embedded", "sd15")
    with pytest.raises(ValidationError):
        Settings(model=())
