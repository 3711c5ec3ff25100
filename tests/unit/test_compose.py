"""The compose file: services, health checks, volumes and what keeps a fleet safe."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
METRIC = re.compile(r"parquetry_\w+")


def test_services_are_all_there():
    wanted = {"redis", "worker-gpu", "worker-vllm", "worker-cpu", "dashboard", "prometheus", "grafana", "flower"}
    assert set(SERVICES) == wanted


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_a_health_check(name):
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_redis_keeps_its_data_and_evicts_nothing():
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_only_workers_on_cards_reserve_devices():
    reserved = {name for name, service in SERVICES.items() if "deploy" in service}
    assert reserved == {"worker-gpu", "worker-vllm"}
    for name in reserved:
        device = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"][0]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        # each kind of worker has its own cards, where a machine runs both
        assert device.get("count") == "all" or device["device_ids"]


@pytest.mark.parametrize("name", ["worker-gpu", "worker-cpu", "dashboard", "flower"])
def test_our_services_wait_for_redis_and_share_storage(name):
    service = SERVICES[name]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert "./data:/data" in service["volumes"]
    assert service["environment"]["PARQUETRY_BROKER_URL"].startswith("redis://:${PARQUETRY_REDIS_PASSWORD:?")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_an_init_and_a_limit_of_memory(name):
    assert SERVICES[name]["init"] is True
    assert SERVICES[name]["mem_limit"]


def test_redis_asks_for_the_password_that_the_others_have():
    command = SERVICES["redis"]["command"]
    password = command[command.index("--requirepass") + 1]
    assert (
        password.startswith("${PARQUETRY_REDIS_PASSWORD:?")
        and password in SERVICES["worker-cpu"]["environment"]["PARQUETRY_BROKER_URL"]
    )


def test_every_named_volume_is_declared():
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_every_mounted_file_exists():
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith("./deploy")]
    assert files and all((ROOT / file).exists() for file in files)


def test_every_port_is_bound_to_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_every_image_target_is_in_the_dockerfile():
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    targets = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert all(f" AS {target}\n" in dockerfile for target in targets)
    assert not [line for line in dockerfile.splitlines() if line.startswith("USER root")]


def test_what_the_dockerfile_copies_is_enough_to_build_the_package(tmp_path):
    pytest.importorskip("setuptools", reason="the dev extra is not installed")
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    code = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    names = ZipFile(tmp_path / ended.stdout.split()[-1]).namelist()
    rooms = {file.parent.relative_to(ROOT).parts[0] for file in ROOT.glob("*/__init__.py")} - {"parquetry", "tests"}
    assert {name.split("/")[1] for name in names if name.count("/") > 1 and name.startswith("parquetry/")} >= rooms
    scripts = {f"parquetry/{file.relative_to(ROOT)}" for file in (ROOT / "tasks").rglob("*.lua")}
    assert scripts and {*scripts, "parquetry/py.typed"} <= set(names)
    assert [name for name in names if name.endswith("/LICENSE")]


def test_celery_is_given_an_app():
    apps = [re.findall(r"celery -A (\S+)", " ".join(service.get("command", []))) for service in SERVICES.values()]
    (module,) = [name for names in apps for name in names]
    command = [sys.executable, "-m", "celery", "-A", module, "report"]
    environment = {**os.environ, "PARQUETRY_BROKER_URL": "redis://127.0.0.1:1/0"}
    ended = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "transport:redis" in ended.stdout


def test_drain_fits_the_grace_period():
    from parquetry.schemas.settings import Settings

    grace = int(SERVICES["worker-gpu"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["drain_seconds"].default


def test_the_grafana_dashboard_asks_for_metrics_that_exist():
    from parquetry.monitor.metrics.metrics import render
    from tests.unit.monitor.made_statuses import busy_job, busy_worker

    exposed = render([busy_job()], [busy_worker()]).decode()
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/parquetry.json").read_text())
    asked = {name for panel in dashboard["panels"] for t in panel["targets"] for name in METRIC.findall(t["expr"])}
    assert len(asked) >= 8
    assert [name for name in asked if f"\n{name}{{" not in exposed] == []
