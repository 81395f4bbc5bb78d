"""What people with Docker start is what `make servers` starts: same ports, pinned images, nothing secret, bound to
this machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
SERVERS = ROOT / "deploy" / "dev" / "servers"
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
BESIDE = {"arangodb": {18529}, "prometheus": {19090}, "grafana": {13000}}  # what `make servers` cannot start


def ports_of(name: str) -> set[int]:
    "Where a service can be reached from this machine."
    service = SERVICES[name]
    if service.get("network_mode") == "host":
        texts = " ".join(
            map(str, [*service.get("command", []), *(f"{k}={v}" for k, v in service.get("environment", {}).items())])
        )
        return {int(match) for match in re.findall(r"(?:-port |127\.0\.0\.1:|HTTP_PORT=)(\d+)", texts)}
    return {int(port.split(":")[1]) for port in service["ports"]}


def test_ports_are_those_of_make_servers():
    script = (SERVERS / "servers.sh").read_text()
    ports = {name: int(port) for name, port in re.findall(r"([\w-]+)\) echo \$\(\((\d+) \+ SHIFT\)\)", script)}
    assert {"kafka", "kafka-secure", "postgresql", "minio", "toxiproxy"} == set(ports)
    assert {name: {port, port + 1} if name == "minio" else {port} for name, port in ports.items()} | BESIDE == {
        name: ports_of(name) for name in SERVICES
    }


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_reaches_it(name):
    service = SERVICES[name]
    if service.get("network_mode") == "host":
        assert "127.0.0.1" in " ".join(
            [*service.get("command", []), *map(str, service.get("environment", {}).values())]
        )
    else:
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_a_digest_can_take_their_place(name):
    image = SERVICES[name]["image"]
    assert re.fullmatch(
        r"\$\{[A-Z]+_IMAGE:-[\w./-]+:(v?\d+\.\d+[\w.-]*|RELEASE\.[\dTZ-]+)(@sha256:[0-9a-f]{64})?\}", image
    ), image
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD" and SERVICES[name]["restart"] == "unless-stopped"


def test_versions_are_those_that_are_tested_here():
    assert (
        (SERVERS / "kafka-4.3.1.lock").exists()
        and "apache/kafka:4.3.1}" in SERVICES["kafka"]["image"]
        and SERVICES["kafka"]["image"] == SERVICES["kafka-secure"]["image"]
    )
    assert (
        "TOXIPROXY_VERSION=v2.5.0" in (SERVERS / "servers.sh").read_text()
        and "toxiproxy:2.5.0}" in SERVICES["toxiproxy"]["image"]
    )


def test_no_secret_stands_in_the_file():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY", variable) or (
                variable.endswith("_FILE") and value == f"/run/secrets/{name}"
            ), variable
        assert all(secret in COMPOSE["secrets"] for secret in service.get("secrets", []))
    assert all(secret["file"] == f"../.servers/compose/passwords/{name}" for name, secret in COMPOSE["secrets"].items())


def test_kafka_settings_of_compose_are_those_of_make_servers():
    "One KAFKA_ variable drops all defaults of the image."
    settings = {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): str(value)
        for name, value in SERVICES["kafka"]["environment"].items()
        if name.startswith("KAFKA_")
    }
    script = (SERVERS / "kafka.sh").read_text()
    for line in re.search(r"cat >\"\$PROPS\" <<EOF\n(.*?)\nEOF", script, re.S)[1].splitlines():
        key, _, value = line.partition("=")
        if not line.startswith("#") and "$" not in value and key != "controller.quorum.bootstrap.servers":
            assert settings[key] == value, key
    assert {
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
        "inter.broker.listener.name",
        "controller.quorum.voters",
        "log.dirs",
    } <= set(settings)


def test_what_is_mounted_exists():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            place = volume.split(":")[0]
            if place.startswith("./"):
                assert (ROOT / "deploy" / place).exists(), place
            elif not place.startswith("../.servers/compose/"):
                assert place in COMPOSE["volumes"], place
    datasource = yaml.safe_load((SERVERS / "grafana" / "datasource.yml").read_text())["datasources"][0]
    scraped = yaml.safe_load((SERVERS / "prometheus.yml").read_text())["scrape_configs"]
    assert datasource["url"] == "http://127.0.0.1:19090" and {job["job_name"] for job in scraped} == {
        "queue-manager",
        "worker",
        "prometheus",
    }


def test_secrets_are_made_once_and_only_their_owner_gets_there(tmp_path):
    for part in ("deploy/compose.yaml", "deploy/dev/servers/compose.sh"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    passwords = tmp_path / ".servers" / "passwords"
    passwords.mkdir(parents=True)
    (passwords / "minio").write_text("made-by-make-servers")
    seen = []
    for _ in range(2):
        subprocess.run(
            ["bash", tmp_path / "deploy/dev/servers/compose.sh", "secrets"], check=True, capture_output=True, timeout=60
        )
        own = tmp_path / ".servers" / "compose"
        seen.append({str(path.relative_to(own)): path.read_text() for path in own.rglob("*") if path.is_file()})
    assert seen[0] == seen[1] and (own.stat().st_mode & 0o777) == 0o700
    assert {
        "passwords/postgresql",
        "passwords/arangodb",
        "passwords/grafana",
        "kafka/ca.pem",
        "kafka/broker.pem",
        "kafka/server.properties",
        "kafka/users/app",
    } <= set(seen[0])
    assert seen[0]["passwords/minio"] == "made-by-make-servers" and not [
        path for path in seen[0] if path.endswith("ca.key")
    ]
    assert len({seen[0][f"kafka/users/{name}"] for name in ("admin", "app", "reader", "stranger")}) == 4


def test_compose_itself_agrees():
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker compose here")
    subprocess.run(
        ["docker", "compose", "-f", ROOT / "deploy" / "compose.yaml", "config", "--quiet"],
        check=True,
        capture_output=True,
        timeout=60,
    )
