import pytest

from parquetry.diagnosis import installation
from parquetry.diagnosis.installation import engine_packages, state_folder
from parquetry.schemas.finding import Level

pytestmark = pytest.mark.usefixtures("fresh_settings")


def test_no_torch_is_a_warning_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    (finding,) = engine_packages()
    assert finding.level is Level.WARNING
    assert "parquetry[torch]" in finding.fix


def test_a_state_folder_below_a_file_is_unusable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "file" / "state"))
    (finding,) = state_folder()
    assert finding.level is Level.UNUSABLE


def test_a_state_folder_yet_to_be_made_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "a" / "b"))
    (finding,) = state_folder()
    assert finding.level is Level.OK
