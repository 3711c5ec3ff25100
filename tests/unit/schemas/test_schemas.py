"""Permits, states, settings, errors and output columns."""

from __future__ import annotations

import inspect
import json
import pickle

import pyarrow as pa
import pytest

from parquetry.schemas import errors
from parquetry.schemas.errors import (
    BrokerUnreachableError,
    InvalidValueError,
    ParquetryError,
    PermitFormatError,
    UnknownKeyError,
    redact,
    suggestion,
)
from parquetry.schemas.permit import Permit
from parquetry.schemas.progress.states import JOB_TRANSITIONS, JobState, may_become
from parquetry.schemas.progress.status import EngineStats
from parquetry.schemas.settings import SettingError, Settings, load_settings, settings
from parquetry.schemas.settings_files import OF_FOLDER, SettingsFileError
from parquetry.schemas.spec.columns import ROW, reserved_names, task_fields
from parquetry.schemas.spec.job import JobSpec


class TestPermit:
    def test_round_trip(self):
        permit = Permit(queue="optimum", issued_by="worker")
        assert Permit.decode(json.loads(json.dumps(permit.encode()))) == permit

    def test_the_longest_is_small(self):
        longest = Permit(queue="q" * 64, issued_by="w" * 64)
        assert len(json.dumps(longest.encode())) < 1024

    @pytest.mark.parametrize(
        "message",
        [
            None,
            [],
            "permit",
            {"version": 2},
            {"version": "1"},
            {"queue": ""},
            {"queue": "a b"},
            {"queue": "q" * 65},
            {"queue": "default\n"},
            {"issued_by": "w" * 65},
            {"shard": 3},
        ],
    )
    def test_malformed(self, message):
        with pytest.raises(PermitFormatError):
            Permit.decode(message)


class TestStates:
    def test_every_state_has_its_transitions(self):
        assert set(JOB_TRANSITIONS) == set(JobState)

    def test_done_is_the_end(self):
        assert not any(may_become(JobState.DONE, state) for state in JobState)

    @pytest.mark.parametrize("state", [s for s in JobState if s is not JobState.DONE])
    def test_every_other_state_can_still_be_done(self, state):
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {target for source in frontier for target in JOB_TRANSITIONS[source]} - reached
            reached |= frontier
        assert JobState.DONE in reached

    def test_no_state_becomes_itself(self):
        assert not any(may_become(state, state) for state in JobState)


class TestEngineStats:
    def test_shares(self):
        stats = EngineStats(
            seconds=10, busy_seconds=4, prompt_tokens=100, cached_tokens=25, computed_tokens=90, padding_tokens=10
        )
        assert (stats.busy_share, stats.cached_share, stats.padding_share) == (0.4, 0.25, 0.1)

    def test_shares_of_an_engine_that_has_done_nothing(self):
        stats = EngineStats()
        assert (stats.busy_share, stats.cached_share, stats.padding_share) == (0, 0, 0)

    def test_what_only_one_engine_counts_is_left_out(self):
        assert EngineStats.model_validate({"launches": 4, "output_tokens": 3.0}) == EngineStats(output_tokens=3)


class TestSettings:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))

    def test_defaults(self):
        found = load_settings()
        assert found.lease_seconds == 60
        assert found.beat_interval == 4

    def test_a_lease_is_renewed_at_least_four_times(self):
        assert load_settings(lease_seconds=8).beat_interval == 2

    def test_environment_wins_over_the_file(self, tmp_path, monkeypatch):
        (tmp_path / "parquetry.toml").write_text("lease_seconds = 30\nmax_attempts = 7\n")
        assert load_settings().lease_seconds == 30
        monkeypatch.setenv("PARQUETRY_LEASE_SECONDS", "45")
        found = load_settings()
        assert (found.lease_seconds, found.max_attempts) == (45, 7)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("LEASE_SECONDS", "soon"),
            ("LEASE_SECONDS", "0"),
            ("BEAT_SECONDS", "-1"),
            ("MAX_ATTEMPTS", "0"),
            ("ENV", "a b"),
            ("BROKER_URL", "amqp://host"),
            ("LOG_LEVEL", "LOUD"),
            ("ONNX_PROVIDER", "openvino"),
        ],
    )
    def test_a_wrong_value_is_named(self, monkeypatch, name, value):
        monkeypatch.setenv(f"PARQUETRY_{name}", value)
        with pytest.raises(SettingError, match=f"The setting PARQUETRY_{name} is"):
            load_settings()

    def test_beats_must_fit_the_lease(self):
        with pytest.raises(SettingError, match="at least three beats"):
            load_settings(lease_seconds=10, beat_seconds=5)

    def test_an_unknown_setting_in_the_file_is_named(self, tmp_path):
        (tmp_path / "parquetry.toml").write_text("lease_second = 30\n")
        with pytest.raises(SettingError, match="LEASE_SECOND"):
            load_settings()

    @pytest.mark.parametrize(
        "line",
        [
            *(
                "trust_remote_code = true",
                'engine_factory = "a:b"',
                'broker_url = "redis://h"',
                'allowed_roots = ["/"]',
            ),
            *('image_roots = ["/"]', 'webhook_hosts = ["*.h"]', 'webhook_secret = "s"', 'dashboard_token = "t"'),
            *('state_dir = "/tmp/x"', 'failpoints = "publish:kill"', "max_cell_bytes = 1", "image_max_pixels = 1"),
        ],
    )
    def test_a_file_in_the_working_folder_widens_no_trust(self, tmp_path, line):
        name = line.split()[0]
        (tmp_path / "parquetry.toml").write_text(f"{line}\n")
        with pytest.raises(SettingsFileError, match=rf"working folder may not set {name}, .*PARQUETRY_{name.upper()}"):
            load_settings()

    def test_every_other_setting_is_named_as_tame(self):
        assert set(OF_FOLDER) <= set(Settings.model_fields)

    def test_the_operators_own_file_may_set_all(self, tmp_path, monkeypatch):
        file = tmp_path / "parquetry" / "parquetry.toml"
        file.parent.mkdir()
        file.write_text("trust_remote_code = true\nlease_seconds = 30\nmax_attempts = 4\n")
        file.chmod(0o600)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        (tmp_path / "parquetry.toml").write_text("lease_seconds = 45\n")

        found = load_settings()
        assert (found.trust_remote_code, found.lease_seconds, found.max_attempts) == (True, 45, 4)

        file.chmod(0o666)
        with pytest.raises(SettingsFileError, match="chmod go-w"):
            load_settings()

    def test_the_state_folder_is_made_for_its_owner_alone(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
        settings.cache_clear()
        assert settings().state_dir.stat().st_mode & 0o777 == 0o700
        settings.cache_clear()

    def test_a_file_that_is_no_toml_is_named(self, tmp_path):
        (tmp_path / "parquetry.toml").write_text("lease_seconds = [[[\n")
        with pytest.raises(SettingsFileError, match=r"parquetry\.toml"):
            load_settings()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BROKER_URL", "reds://user:planted@host:6379/0"),
            ("BROKER_URL", "redis//user:planted@host:6379/0"),
            ("BROKER_URL", ":planted@host:6379"),
            ("BROKER_URL", "amqp://host?password=planted"),
            ("LEASE_SECONDS", "1"),
        ],
    )
    def test_no_secret_is_printed_of_a_setting_that_is_off(self, monkeypatch, name, value):
        for key, secret in (("BROKER_URL", "redis://:planted@h"), ("WEBHOOK_SECRET", "planted"), ("ENV", "x")):
            monkeypatch.setenv(f"PARQUETRY_{key}", secret)
        monkeypatch.setenv("PARQUETRY_BEAT_SECONDS", "1")
        monkeypatch.setenv("PARQUETRY_DASHBOARD_TOKEN", "planted")
        monkeypatch.setenv(f"PARQUETRY_{name}", value)
        with pytest.raises(SettingError) as refused:
            load_settings()
        assert "planted" not in str(refused.value)


def every_error() -> list[type[ParquetryError]]:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    return [value for value in classes if issubclass(value, ParquetryError)]


class TestErrors:
    @pytest.mark.parametrize("kind", every_error())
    def test_the_docstring_is_a_sentence(self, kind):
        assert kind.__doc__.rstrip().endswith((".", "{reason}"))

    def test_an_error_survives_pickling(self):
        error = InvalidValueError(key="a.b", value=1, reason="it is {odd}")
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (type(again), str(again), again.fields) == (InvalidValueError, str(error), error.fields)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://user:secret@host:6379/0", "redis://host:6379/0"),
            ("rediss://:secret@host", "rediss://host"),
            ("redis://host", "redis://host"),
            ("redis+socket:///run/s", "redis+socket:///run/s"),
            ("redis://user:p@ss@host", "redis://host"),
            ("rediss://host?ssl_password=secret", "rediss://host"),
            ("redis:/user:secret@host", "host"),
        ],
    )
    def test_redacted(self, url, shown):
        assert redact(url) == shown
        assert "secret" not in str(BrokerUnreachableError(url=redact(url), reason="refused"))

    def test_suggestion(self):
        assert suggestion("txet", ["text", "id"]) == " (did you mean 'text'?)"
        assert suggestion("zzz", ["text", "id"]) == ""
        assert str(UnknownKeyError(key="'a'", suggestion="")) == "The job spec has an unknown key 'a'."


def make_spec(task: str, **sections) -> JobSpec:
    base = {"task": task, "input": {"path": "in"}, "output": {"path": "out"}, "model": {"id": "m"}}
    if task == "generate":
        base["prompt"] = {"template": "x"}
    if task == "score":
        base["classify"] = {"text_pair": "b"}
    return JobSpec.parse({**base, **sections})


class TestColumns:
    @pytest.mark.parametrize(
        ("spec", "names"),
        [
            (make_spec("generate"), ["output", "finish_reason", "prompt_tokens", "output_tokens"]),
            (
                make_spec("generate", generation={"logprobs": True}),
                ["output", "finish_reason", "prompt_tokens", "output_tokens", "logprobs"],
            ),
            (make_spec("classify"), ["label", "score"]),
            (make_spec("classify", classify={"all_scores": True}), ["label", "score", "scores"]),
            (make_spec("score"), ["score"]),
            (make_spec("embed"), ["embedding"]),
        ],
    )
    def test_names_and_order(self, spec, names):
        assert [field.name for field in task_fields(spec, embedding_dim=4)] == names
        assert reserved_names(spec) == {"row", *names, "error"}
        assert not ROW.nullable

    def test_types(self):
        several = pa.schema(task_fields(make_spec("generate", generation={"n": 2, "temperature": 1.0})))
        assert several.field("output").type == pa.list_(pa.string())
        embedding = pa.schema(task_fields(make_spec("embed", embed={"dtype": "float32"}), embedding_dim=4))
        assert embedding.field("embedding").type == pa.list_(pa.float32(), 4)
