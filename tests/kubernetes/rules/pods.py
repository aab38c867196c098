"""Workloads: selectors that choose their own pods, probes that lead somewhere, sidecars that are ones."""

from .model import label, matches

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MEANT = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


def selectors(manifests):
    for pod in manifests.pods:
        selector = pod.document.get("spec", {}).get("selector")
        if pod.document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
            if not matches(selector or {}, pod.labels):
                yield f"{pod.where}: its selector does not choose its own pods"
            others = [other.where for other in manifests.selected(selector) if other is not pod]
            if others:
                yield f"{pod.where}: its selector chooses the pods of {', '.join(others)}, too"
        for spread in pod.spec.get("topologySpreadConstraints") or []:
            if not matches(spread.get("labelSelector") or {}, pod.labels):
                yield f"{pod.where}: topologySpreadConstraints: the selector does not choose its own pods"
    for document in manifests.of("StatefulSet"):
        name = document["spec"].get("serviceName")
        service = manifests.named("Service", name)
        if service is None:
            yield f"{label(document)}: there is no Service {name}"
        elif service["spec"].get("clusterIP") != "None":
            yield f"{label(document)}: Service {name} is not headless, so pods have no names"


def probes(manifests):
    for pod in manifests.pods:
        for container in pod.containers:
            where = f"{pod.where}: {container['name']}"
            ports = container.get("ports") or []
            for kind in PROBES:
                probe = container.get(kind)
                if probe is None:
                    continue
                ways = [way for way in ("httpGet", "tcpSocket", "exec", "grpc") if way in probe]
                if len(ways) != 1:
                    yield f"{where}: {kind} asks in {len(ways)} ways"
                    continue
                port = probe[ways[0]].get("port")
                if ways[0] in ("httpGet", "tcpSocket") and not any(
                    port in (each.get("name"), each["containerPort"]) for each in ports
                ):
                    yield f"{where}: {kind}: there is no port {port}"
                if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
                    yield f"{where}: {kind}: successThreshold must be 1"
                if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10) and kind != "startupProbe":
                    yield f"{where}: {kind}: timeoutSeconds is longer than periodSeconds"
            if container in pod.init and container.get("restartPolicy") != "Always":
                if any(kind in container for kind in (*PROBES, "lifecycle")):
                    yield f"{where}: an init container has no probes unless its restartPolicy is Always"


def everlinks(manifests):
    """Each endpoint of everlink has its meaning, and its probe."""
    for pod in manifests.pods:
        for container in pod.everlinks():
            where = f"{pod.where}: {container['name']}"
            if container in pod.init and container.get("restartPolicy") != "Always":
                yield f"{where}: an init container that does not end holds up the pod; restartPolicy: Always makes it a sidecar"
            for kind, path in MEANT.items():
                asked = ((container.get(kind) or {}).get("httpGet") or {}).get("path")
                if asked != path:
                    yield f"{where}: {kind} asks {asked}, not {path}"
            if container.get("command"):
                yield f"{where}: the image has an entrypoint, and args are enough"
            for hook, action in (container.get("lifecycle") or {}).items():
                command = (action.get("exec") or {}).get("command") or ["/everlink"]
                if command[0] != "/everlink":
                    yield f"{where}: {hook}: the image has no {command[0]}"
            if ":" not in container["image"].split("/")[-1] or container["image"].endswith(":latest"):
                yield f"{where}: {container['image']} names no version"


RULES = [selectors, probes, everlinks]
