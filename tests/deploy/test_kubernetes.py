"""The manifests are valid, and agree with each other and with the server's settings."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from index_grpc.cli import main
from index_grpc.server.app import FLUSH_SECONDS
from index_grpc.server.health import LIVENESS
from index_grpc.server.servicer import SERVICE
from index_grpc.server.supervisor import LONGEST_STEP_SECONDS
from tests.deploy.manifests import KUSTOMIZATIONS, OWN, ROOT, Manifest, of_kind, pod, rendered, server, settings_file

DEFINED_ELSEWHERE = {"DestinationRule", "PeerAuthentication", "PodMonitor", "PrometheusRule", "VirtualService"}
NAME = {"app.kubernetes.io/name": "index-grpc"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")

pytestmark = pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)


def effective(kustomization: str, tmp_path: Path) -> dict[str, Any]:
    """The settings that the server reads from the container's arguments, environment and file."""
    container = server(kustomization)
    command, flag, path = container["args"]
    assert (command, flag) == ("serve", "--config")
    assert any(mount["mountPath"] == str(Path(path).parent) for mount in container["volumeMounts"])
    file = tmp_path / Path(path).name
    file.write_text(settings_file(kustomization))
    environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    result = CliRunner().invoke(main, [command, flag, str(file), "--print-config"], env=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return tomllib.loads(result.stdout)


def selectors(manifest: Manifest) -> Iterator[dict[str, str]]:
    """Labels of the pods that the manifest selects."""
    spec = manifest["spec"]
    selector = spec.get("podSelector", spec.get("selector"))
    if selector is not None:
        yield selector.get("matchLabels", selector)


def test_kubernetes_knows_each_field(kustomization: str) -> None:
    for manifest in rendered(kustomization):
        if manifest["kind"] not in DEFINED_ELSEWHERE:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_every_selector_selects_the_servers(kustomization: str) -> None:
    assert pod(kustomization)["metadata"]["labels"].items() >= NAME.items()
    kinds = ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "PeerAuthentication")
    found = [manifest for manifest in rendered(kustomization) if manifest["kind"] in kinds]
    assert [list(selectors(manifest)) for manifest in found] == [[NAME]] * len(found)
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {each["kind"] for each in found}


def test_callers_need_not_be_servers(kustomization: str) -> None:
    """Kustomize adds common labels to a NetworkPolicy's selectors too."""
    (policy,) = [each for each in of_kind(kustomization, "NetworkPolicy") if each["metadata"]["name"] == "index-grpc"]
    peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    labels = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in peers]
    assert labels == [{"index-grpc/client": "true"}, {"index-grpc/client": "true"}, {}]


def test_ports_are_those_that_the_server_opens(kustomization: str, tmp_path: Path) -> None:
    settings, container = effective(kustomization, tmp_path), server(kustomization)
    assert settings["host"] == settings["metrics_host"] == "0.0.0.0"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings["port"], "metrics": settings["metrics_port"]}
    assert {probe["grpc"]["port"] for name in PROBES if "grpc" in (probe := container[name])} <= {settings["port"]}
    for service in of_kind(kustomization, "Service"):
        (port,) = service["spec"]["ports"]
        assert (port["port"], port["targetPort"], port["appProtocol"]) == (settings["port"], "grpc", "grpc")
    ingress = of_kind(kustomization, "NetworkPolicy")[0]["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["grpc", "metrics"]
    for monitor in of_kind(kustomization, "PodMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_native_probes_ask_the_right_service_of_servers_that_do_not_encrypt(kustomization: str, tmp_path: Path) -> None:
    container = server(kustomization)
    if "tls_cert" in effective(kustomization, tmp_path):
        assert not any("grpc" in container[name] for name in PROBES)
    else:
        asked = [container[name]["grpc"]["service"] for name in PROBES]
        assert asked == [LIVENESS, LIVENESS, SERVICE]


def test_the_drain_ends_before_kubernetes_kills(kustomization: str, tmp_path: Path) -> None:
    settings, spec = effective(kustomization, tmp_path), pod(kustomization)["spec"]
    longest = settings["drain_delay_seconds"] + settings["grace_seconds"] + FLUSH_SECONDS + LONGEST_STEP_SECONDS
    assert spec["terminationGracePeriodSeconds"] > longest
    assert "lifecycle" not in server(kustomization)
    proxy = yaml.safe_load(pod(kustomization)["metadata"].get("annotations", {}).get("proxy.istio.io/config", "{}"))
    if proxy:
        assert longest < int(proxy["terminationDrainDuration"].rstrip("s")) < spec["terminationGracePeriodSeconds"]


def test_containers_have_only_the_rights_that_they_need(kustomization: str) -> None:
    spec = pod(kustomization)["spec"]
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert [each["name"] for each in server(kustomization)["volumeMounts"] if not each.get("readOnly")] == ["tmp"]


def test_all_containers_use_the_right_image(kustomization: str) -> None:
    spec = pod(kustomization)["spec"]
    images = {container["image"] for container in (*spec["containers"], *spec.get("initContainers", []))}
    needs_gpu = "nvidia.com/gpu" in server(kustomization)["resources"]["limits"]
    repository = "registry.example/index-grpc" if kustomization == OWN else "index-grpc"
    assert images == {f"{repository}:{'cuda' if needs_gpu else 'cpu'}"}


def test_either_the_deployment_or_an_autoscaler_sets_the_replicas(kustomization: str) -> None:
    (deployment,) = of_kind(kustomization, "Deployment")
    scalers = of_kind(kustomization, "HorizontalPodAutoscaler")
    assert ("replicas" in deployment["spec"]) != bool(scalers)
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for scaler in scalers:
        (metric,) = [entry["pods"]["metric"]["name"] for entry in scaler["spec"]["metrics"]]
        assert f"| `{metric}` | gauge |" in documented
        assert metric in (ROOT / "deploy/kubernetes/components/autoscaling/prometheus-adapter.yaml").read_text()


def test_the_alerts_are_the_tested_ones(kustomization: str) -> None:
    tested = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text())
    assert [rule["spec"] for rule in of_kind(kustomization, "PrometheusRule")] == (
        [tested] if kustomization == OWN else []
    )
