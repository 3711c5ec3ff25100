import errno
import subprocess
import sys

import pytest

from parquetry import cli
from parquetry.api import calls as api
from parquetry.commands.machine import parse_gpus
from parquetry.schemas.errors import BrokerUnreachableError, UnknownJobError
from parquetry.schemas.settings import settings


def run_cli(monkeypatch, *arguments):
    """Exit code of the command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["parquetry", *arguments])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.delenv("PARQUETRY_BROKER_URL", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def broken(error):
    def open_ledger(url=None):
        raise error

    return open_ledger


def test_version_and_help_succeed(monkeypatch, capsys):
    assert run_cli(monkeypatch, "--version") == 0
    assert run_cli(monkeypatch, "--help") == 0
    assert "parquetry 0." in capsys.readouterr().out


def test_help_names_every_command(monkeypatch, capsys):
    run_cli(monkeypatch, "--help")
    text = capsys.readouterr().out
    steering = "run plan submit jobs status watch pause resume cancel priority retry recover purge"
    commands = f"{steering} worker dashboard gateway doctor"
    assert all(f" {name} " in text for name in (*commands.split(), "export"))


def test_a_missing_spec_is_bad_input_in_one_sentence(monkeypatch, capsys, tmp_path):
    assert run_cli(monkeypatch, "run", str(tmp_path / "none.yaml")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.yaml" in error


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["status"], ["run", "a.yaml", "--workers", "none"]])
def test_misuse_is_bad_input(monkeypatch, arguments):
    assert run_cli(monkeypatch, *arguments) == 2


def test_no_broker_is_what_no_retry_cures(monkeypatch, capsys):
    assert run_cli(monkeypatch, "jobs") == 2
    assert "PARQUETRY_BROKER_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownJobError(job="x", suggestion=""), 2),
        (BrokerUnreachableError(url="redis://h", reason="refused"), BrokerUnreachableError.exit_code),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (OSError(errno.EROFS, "Read-only file system", "/state/x"), 3),
        (RuntimeError("surprise"), 3),
    ],
)
def test_every_error_has_one_exit_code_and_one_line(monkeypatch, capsys, error, code):
    monkeypatch.setattr(api, "open_ledger", broken(error))
    assert run_cli(monkeypatch, "jobs") == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert ("unexpected" in printed.err) is isinstance(error, RuntimeError)


def test_debug_raises_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(api, "open_ledger", broken(RuntimeError("surprise")))
    monkeypatch.setattr(sys, "argv", ["parquetry", "jobs", "--debug"])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(RuntimeError, match="surprise"):
        cli.main()


def test_an_interrupt_is_130(monkeypatch):
    monkeypatch.setattr(api, "open_ledger", broken(KeyboardInterrupt()))
    assert run_cli(monkeypatch, "jobs") == 130


@pytest.mark.parametrize("value", ["0,,1", "0,0", ""])
def test_an_unusable_gpu_list_is_bad_input(monkeypatch, capsys, value):
    assert run_cli(monkeypatch, "worker", "--gpus", value) == 2
    assert "--gpus" in capsys.readouterr().err


def test_gpu_lists():
    assert (parse_gpus(None), parse_gpus("none"), parse_gpus("0, 1")) == (None, (), ("0", "1"))


def test_an_interpreter_that_takes_the_texts_away_is_refused_in_a_sentence():
    ended = subprocess.run([sys.executable, "-OO", "-m", "parquetry", "jobs"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "-OO" in ended.stderr
