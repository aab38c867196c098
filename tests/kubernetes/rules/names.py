"""Names that stand for something: objects, volumes, ConfigMaps, Secrets, references between them."""

import re
from collections import Counter

from .model import label, walk

# Of objects, and of what becomes part of a host's name.
SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
PORT = re.compile(r"^(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
# What kustomize puts behind the name of a generated ConfigMap.
HASH = re.compile(r"-[bcdfghkmt2456789]{10}$")


def objects(manifests):
    seen = Counter((each["apiVersion"], each["kind"], each["metadata"].get("name")) for each in manifests.documents)
    for (_, kind, name), count in seen.items():
        if count > 1:
            yield f"{kind}/{name}: is there {count} times"
    for document in manifests.documents:
        name = document["metadata"].get("name") or ""
        pattern, most = (LABEL, 63) if document["kind"] in ("Service", "StatefulSet") else (SUBDOMAIN, 253)
        if not pattern.match(name) or len(name) > most:
            yield f"{label(document)}: {name!r} is no name for it"
        if document["kind"] == "ConfigMap" and HASH.search(name):
            yield f"{label(document)}: an edit would give it another name, and so be a rollout instead of a reload"
    for document in manifests.documents:
        for path, value in walk(document):
            if path.endswith(("labels", "matchLabels")) and isinstance(value, dict):
                for key, text in value.items():
                    if not isinstance(text, str) or not LABEL_VALUE.match(text) or len(text) > 63:
                        yield f"{label(document)}: {path}.{key}: {text!r} is no value of a label"


def parts(manifests):
    """Containers, volumes and ports by their names."""
    for pod in manifests.pods:
        kinds = {
            "container": [each["name"] for each in pod.containers],
            "volume": [each["name"] for each in pod.spec.get("volumes") or []],
            "port": [each["name"] for each in pod.ports() if "name" in each],
        }
        for kind, names in kinds.items():
            for name, count in Counter(names).items():
                if count > 1:
                    yield f"{pod.where}: {kind} {name} is there {count} times"
                bad = not PORT.match(name) or len(name) > 15 if kind == "port" else not LABEL.match(name) or len(name) > 63
                if bad:
                    yield f"{pod.where}: {name!r} is no name for a {kind}"
        for number, count in Counter(each["containerPort"] for each in pod.ports()).items():
            if count > 1:
                yield f"{pod.where}: port {number} is there {count} times"
        for container in pod.containers:
            for name, count in Counter(each["name"] for each in container.get("env") or []).items():
                if count > 1:
                    yield f"{pod.where}: {container['name']}: the variable {name} is there {count} times"


def mounts(manifests):
    for pod in manifests.pods:
        used = set()
        for container in pod.containers:
            where = f"{pod.where}: {container['name']}"
            paths = [each["mountPath"].rstrip("/") for each in container.get("volumeMounts") or []]
            for path, count in Counter(paths).items():
                if count > 1:
                    yield f"{where}: {path} is mounted {count} times"
                for other in paths:
                    if path.startswith(other + "/"):
                        yield f"{where}: {path} lies in {other}, where no directory for it can be made"
            for mount in container.get("volumeMounts") or []:
                used.add(mount["name"])
                volume = pod.volumes.get(mount["name"])
                if volume is None:
                    yield f"{where}: mounts {mount['name']}, and there is no such volume"
                elif mount.get("subPath") and ({"configMap", "secret", "projected"} & volume.keys()):
                    yield f"{where}: {mount['name']} by subPath is never renewed, so edits do not arrive"
        for name in pod.volumes.keys() - used:
            yield f"{pod.where}: volume {name} is mounted nowhere"
        for name, volume in pod.volumes.items():
            if len(volume) == 1:
                yield f"{pod.where}: volume {name} comes from nowhere"


def sources(manifests):
    """ConfigMaps must be here; Secrets must be here, or whoever applies this must have been told how to make them."""
    for pod in manifests.pods:
        for path, value in walk(pod.spec):
            key = path.rsplit(".", 1)[-1]
            if not isinstance(value, dict):
                continue
            if key in ("configMap", "configMapRef", "configMapKeyRef"):
                name = value.get("name")
                found = manifests.named("ConfigMap", name)
                if found is None:
                    yield f"{pod.where}: there is no ConfigMap {name}"
                    continue
                for wanted in [value.get("key")] + [item["key"] for item in value.get("items") or []]:
                    if wanted and wanted not in (found.get("data") or {}):
                        yield f"{pod.where}: ConfigMap {name} has no {wanted}"
            if key in ("secret", "secretRef", "secretKeyRef"):
                name = value.get("secretName") or value.get("name")
                told = re.search(rf"create secret (generic|tls) {re.escape(str(name))}\b", manifests.documented)
                if manifests.named("Secret", name) is None and not told:
                    yield f"{pod.where}: there is no Secret {name}, and no word of how to make it"


RULES = [objects, parts, mounts, sources]
