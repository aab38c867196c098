"""Breaks rendered manifests in one way at a time, and holds that the rule for it says so: `broken.py MONITORED CLASSIC`.

A rule's line that no case reaches fails it, too.
"""

import copy
import re
import sys
from pathlib import Path

from lint import load
from rules import RULES
from rules.model import Manifests

README = Path(__file__).parent.parent.parent / "deploy/kubernetes/README.md"
APP, GATEWAY, REDIS = "Deployment/app", "StatefulSet/everlink-gateway", "Deployment/redis"
SIDECAR, APPLICATION = "spec.template.spec.initContainers.0", "spec.template.spec.containers.0"
GONE = object()


def put(documents, what, path, value):
    """Sets what is at `path` of the object `what`; [] behind the path appends, GONE removes, a function changes."""
    kind, name = what.split("/", 1)
    at = next(each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name)
    *above, last = [int(key) if key.isdigit() else key.replace("~", ".") for key in path.split(".")]
    for key in above:
        at = at[key] if isinstance(key, int) or key in at else at.setdefault(key, {})
    if value is GONE:
        del at[last]
    elif last == "[]":
        at.append(value)
    else:
        at[last] = value(at.get(last) if isinstance(at, dict) else at[last]) if callable(value) else value


def config(old, new):
    """In the text of a configuration."""

    def change(text):
        assert old in text, old
        return text.replace(old, new)

    return change


SIDECAR_CONFIG = ("ConfigMap/everlink-sidecar", "data.config~toml")
GATEWAY_CONFIG = ("ConfigMap/everlink-gateway", "data.config~toml")
BUDGET, POLICY, MONITOR = "PodDisruptionBudget/everlink-gateway", "NetworkPolicy/everlink-gateway", "PodMonitor/everlink"

# What is said, of which object, what is changed, and to what.
CASES = [
    # values
    ("'replica' was unexpected", APP, "spec.replica", 2),
    ("'1' is not of type", APP, "spec.replicas", "1"),
    ("'selector' is a required property", APP, "spec.selector", GONE),
    ("find schema for kind Deployment", APP, "apiVersion", "apps/v1beta9"),
    ("'metrics' does not match", MONITOR, "spec.podMetricsEndpoints.0.path", "metrics"),
    ("'15 s' does not match", MONITOR, "spec.podMetricsEndpoints.0.interval", "15 s"),
    ("'OnFailure' is not one of Always", APP, f"{SIDECAR}.restartPolicy", "OnFailure"),
    ("'Sometimes' is not one of", GATEWAY, f"{APPLICATION}.imagePullPolicy", "Sometimes"),
    ("'Default' is not one of Localhost", GATEWAY, "spec.template.spec.securityContext.seccompProfile.type", "Default"),
    ("'Loadbalancer' is not one of", "Service/everlink-gateway", "spec.type", "Loadbalancer"),
    ("'ingress' is not one of Egress", POLICY, "spec.policyTypes", ["ingress", "Ingress"]),
    ("'status.podIp' is not one of", GATEWAY, f"{APPLICATION}.env.1.valueFrom.fieldRef.fieldPath", "status.podIp"),
    ("'Schedule' is not one of", GATEWAY, "spec.template.spec.topologySpreadConstraints.0.whenUnsatisfiable", "Schedule"),
    ("'64MiB' is no quantity", GATEWAY, f"{APPLICATION}.resources.requests.memory", "64MiB"),
    ("'128' is less than a MiB", APP, f"{SIDECAR}.resources.limits.memory", "128"),
    ("requests no cpu", APP, f"{SIDECAR}.resources.requests.cpu", GONE),
    ("requests more memory", APP, f"{SIDECAR}.resources.requests.memory", "1Gi"),
    ("has no limit of memory", APP, f"{SIDECAR}.resources.limits", GONE),
    ("sizeLimit: '1MiB' is no quantity", GATEWAY, "spec.template.spec.volumes.3.emptyDir.sizeLimit", "1MiB"),
    # names
    ("is there 2 times", "Service/everlink-gateways", "metadata.name", "everlink-gateway"),
    ("'Redis_1' is no name", REDIS, "metadata.name", "Redis_1"),
    ("so be a rollout", "ConfigMap/everlink-sidecar", "metadata.name", "everlink-sidecar-8fk2m5h9gt"),
    ("is no value of a label", APP, "spec.template.metadata.labels.everlink", "a sidecar"),
    ("container everlink is there 2 times", APP, f"{APPLICATION}.name", "everlink"),
    ("'the tunnels' is no name for a port", GATEWAY, f"{APPLICATION}.ports.0.name", "the tunnels"),
    ("port 9900 is there 2 times", GATEWAY, f"{APPLICATION}.ports.0.containerPort", 9900),
    ("the variable POD_IP is there 2 times", GATEWAY, f"{APPLICATION}.env.0.name", "POD_IP"),
    ("/etc/everlink is mounted 2 times", GATEWAY, f"{APPLICATION}.volumeMounts.1.mountPath", "/etc/everlink/"),
    ("/etc/everlink/tls lies in /etc/everlink", GATEWAY, f"{APPLICATION}.volumeMounts.1.mountPath", "/etc/everlink/tls"),
    ("there is no such volume", GATEWAY, f"{APPLICATION}.volumeMounts.0.name", "configs"),
    ("by subPath is never renewed", GATEWAY, f"{APPLICATION}.volumeMounts.0.subPath", "config.toml"),
    ("is mounted nowhere", GATEWAY, "spec.template.spec.volumes.[]", {"name": "spare", "emptyDir": {}}),
    ("comes from nowhere", GATEWAY, "spec.template.spec.volumes.3.emptyDir", GONE),
    ("there is no ConfigMap everlink-gatweay", GATEWAY, "spec.template.spec.volumes.0.configMap.name", "everlink-gatweay"),
    ("has no everlink.toml", GATEWAY, "spec.template.spec.volumes.0.configMap.items", [{"key": "everlink.toml", "path": "a"}]),
    ("there is no Secret everlink-tls", GATEWAY, "spec.template.spec.volumes.1.secret.secretName", "everlink-tls"),
    # pods
    ("does not choose its own pods", APP, "spec.template.metadata.labels.app~kubernetes~io/name", "apps"),
    ("chooses the pods of", REDIS, "spec.selector.matchLabels", {"app.kubernetes.io/name": "app"}),
    (
        "topologySpreadConstraints: the selector",
        GATEWAY,
        "spec.template.spec.topologySpreadConstraints.0.labelSelector.matchLabels",
        {"app": "gateway"},
    ),
    ("there is no Service gateways", GATEWAY, "spec.serviceName", "gateways"),
    ("is not headless", GATEWAY, "spec.serviceName", "everlink-gateway"),
    ("startupProbe asks in 2 ways", APP, f"{SIDECAR}.startupProbe.tcpSocket", {"port": 9900}),
    ("livenessProbe: there is no port http", APP, f"{SIDECAR}.livenessProbe.httpGet.port", "http"),
    ("successThreshold must be 1", APP, f"{SIDECAR}.livenessProbe.successThreshold", 2),
    ("timeoutSeconds is longer", APP, f"{SIDECAR}.livenessProbe.timeoutSeconds", 11),
    ("an init container has no probes", APP, f"{SIDECAR}.restartPolicy", GONE),
    ("holds up the pod", APP, f"{SIDECAR}.restartPolicy", GONE),
    ("readinessProbe asks /livez, not /readyz", APP, f"{SIDECAR}.readinessProbe.httpGet.path", "/livez"),
    ("livenessProbe asks None", GATEWAY, f"{APPLICATION}.livenessProbe", GONE),
    ("the image has an entrypoint", APP, f"{SIDECAR}.command", ["/everlink"]),
    ("the image has no /bin/sh", APP, f"{SIDECAR}.lifecycle", {"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 5"]}}}),
    ("names no version", APP, f"{SIDECAR}.image", "everlink:latest"),
    # network
    ("Service/redis: its selector chooses no pod", "Service/redis", "spec.selector", {"app": "redis"}),
    ("each needs a name", "Service/redis", "spec.ports.[]", {"port": 1, "targetPort": 6379}),
    ("has no port tunnel", "Service/everlink-gateway", "spec.ports.0.targetPort", "tunnel"),
    ("one of them", BUDGET, "spec.minAvailable", 1),
    ("everlink-gateway: its selector chooses no pod", BUDGET, "spec.selector.matchLabels", {"app": "gateway"}),
    ("may ever be evicted", BUDGET, "spec.maxUnavailable", 0),
    ("NetworkPolicy/everlink-gateway: its selector chooses no pod", POLICY, "spec.podSelector.matchLabels", {"app": "gateway"}),
    ("are not in force", POLICY, "spec.policyTypes", ["Egress"]),
    ("has no port http", POLICY, "spec.ingress.1.ports.0.port", "http"),
    ("PodMonitor/everlink: its selector chooses no pod", MONITOR, "spec.selector", {"matchLabels": {"everlink": "none"}}),
    ("PodMonitor/everlink: Deployment/app has no port metrics", MONITOR, "spec.podMetricsEndpoints.0.port", "metrics"),
    ("prometheus.io/port: there is no port 9090", APP, "spec.template.metadata.annotations.prometheus~io/port", "9090"),
    # security
    ("hostNetwork is not allowed", GATEWAY, "spec.template.spec.hostNetwork", True),
    ("hostPath is not allowed", GATEWAY, "spec.template.spec.volumes.3", {"name": "run", "hostPath": {"path": "/run"}}),
    ("sysctls want an eye", GATEWAY, "spec.template.spec.securityContext.sysctls", [{"name": "a", "value": "1"}]),
    ("runAsNonRoot must be true", APP, f"{SIDECAR}.securityContext.runAsNonRoot", GONE),
    ("runAsUser must not be 0", APP, f"{SIDECAR}.securityContext.runAsUser", 0),
    ("seccompProfile must be", APP, f"{SIDECAR}.securityContext.seccompProfile", GONE),
    ("allowPrivilegeEscalation must be false", APP, f"{SIDECAR}.securityContext.allowPrivilegeEscalation", GONE),
    ("privileged is not allowed", APP, f"{SIDECAR}.securityContext.privileged", True),
    ("capabilities must drop ALL", APP, f"{SIDECAR}.securityContext.capabilities", {"drop": ["NET_RAW"]}),
    ("capabilities must add none", APP, f"{SIDECAR}.securityContext.capabilities.add", ["NET_ADMIN"]),
    ("readOnlyRootFilesystem must be true", APP, f"{SIDECAR}.securityContext.readOnlyRootFilesystem", False),
    ("hostPort is not allowed", GATEWAY, f"{APPLICATION}.ports.0.hostPort", 7443),
    ("mode 0644 lets others read", GATEWAY, "spec.template.spec.volumes.1.secret.defaultMode", GONE),
    ("mode 0460 lets others read or write", GATEWAY, "spec.template.spec.volumes.1.secret.defaultMode", 0o460),
    ("mode 0400 keeps everlink out", GATEWAY, "spec.template.spec.volumes.1.secret.defaultMode", 0o400),
    ("without fsGroup", GATEWAY, "spec.template.spec.securityContext.fsGroup", GONE),
    # configuration
    ("nothing here mounts its configuration", GATEWAY, f"{APPLICATION}.args.2", "/etc/everlink.toml"),
    ("which it does not name", GATEWAY, f"{APPLICATION}.args", ["run"]),
    ("is no TOML", *SIDECAR_CONFIG, config("[http]", "[http")),
    ("wants the variable POD_IP", GATEWAY, f"{APPLICATION}.env.1", GONE),
    ("tells no such port", *SIDECAR_CONFIG, config("0.0.0.0:9900", "0.0.0.0:9901")),
    ("http.listen is on the loopback alone", *SIDECAR_CONFIG, config("0.0.0.0:9900", "127.0.0.1:9900")),
    ("gateway.listen is on the loopback alone", *GATEWAY_CONFIG, config("0.0.0.0:7443", "[::1]:7443")),
    ("http.public_status shows", *SIDECAR_CONFIG, config("[http]", "[http]\npublic_status = true")),
    ("without gateway.advertise", *GATEWAY_CONFIG, config("advertise", "# advertise")),
    ("drain.timeout is 30 s", *SIDECAR_CONFIG, config('timeout = "8s"', 'timeout = "30s"')),
    ("drain.timeout is 300 s", GATEWAY, "spec.template.spec.terminationGracePeriodSeconds", GONE),
    ("nothing is mounted at /run/secrets/token", *SIDECAR_CONFIG, config("secrets/everlink-token", "secrets/token")),
    ("no socket can be made", *SIDECAR_CONFIG, config("/run/everlink/admin.sock", "/etc/everlink/admin.sock")),
    ("there is no Service everlink-gatway", *SIDECAR_CONFIG, config("everlink-gateway:", "everlink-gatway:")),
    ("Service redis has no port 6380", *GATEWAY_CONFIG, config("redis:6379", "redis:6380")),
]
# Where everlink is a container like the others.
CLASSIC = [("has no drain.minimum", *SIDECAR_CONFIG, config("minimum =", "# minimum ="))]


def said(documents, documented):
    return [problem for rule in RULES for problem in rule(Manifests(documents, (), documented))]


def main():
    documented = README.read_text()
    reached = set()

    def trace(frame, event, _):
        if "/rules/" not in frame.f_code.co_filename:
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    monitored, classic = map(load, sys.argv[1:])
    failures = [f"as it is: {problem}" for whole in (monitored, classic) for problem in said(whole, documented)]
    sys.settrace(trace)
    for whole, cases in ((monitored, CASES), (classic, CLASSIC)):
        for expected, what, path, value in cases:
            documents = copy.deepcopy(whole)
            put(documents, what, path, value)
            problems = said(documents, documented)
            if not any(expected in problem for problem in problems):
                failures.append(f"{what}: {path}: no rule said {expected!r}, but {problems}")
    sys.settrace(None)
    for path in sorted((Path(__file__).parent / "rules").glob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.match(r"\s*yield f\"", line) and (str(path), number) not in reached:
                failures.append(f"{path.name}:{number}: no case reaches {line.strip()}")
    print("\n".join(failures) or f"{len(CASES) + len(CLASSIC)} mistakes, each found")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
