"""Shapes and values: the API schemas, and what they leave open (words from a closed list, quantities)."""

import functools
import json
import re
from decimal import Decimal
from pathlib import Path

import jsonschema
import kubernetes_validate

from .model import label, walk

# It reads megabytes for each manifest.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

SCHEMAS = Path(__file__).parent.parent / "schemas"

# By the name of the field and, where that says too little, of what it stands in.
WORDS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "podManagementPolicy": {"OrderedReady", "Parallel"},
    "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "scheme": {"HTTP", "HTTPS", "http", "https"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist", "Equal", "Gt", "Lt"},
    "medium": {"", "Memory"},
    "sessionAffinity": {"None", "ClientIP"},
    "externalTrafficPolicy": {"Cluster", "Local"},
    "internalTrafficPolicy": {"Cluster", "Local"},
    "ipFamilyPolicy": {"SingleStack", "PreferDualStack", "RequireDualStack"},
    "unhealthyPodEvictionPolicy": {"IfHealthyBudget", "AlwaysAllow"},
    "terminationMessagePolicy": {"File", "FallbackToLogsOnError"},
}
TYPES = {
    "seccompProfile": {"RuntimeDefault", "Localhost", "Unconfined"},
    "updateStrategy": {"RollingUpdate", "OnDelete"},
    "strategy": {"RollingUpdate", "Recreate"},
    "Service": {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
}
FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
FIELDS |= {"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}

QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|)$")
SCALE = {"m": Decimal("0.001"), "": 1} | {unit: 1000**n for n, unit in enumerate("kMGTPE", 1)}
SCALE |= {unit + "i": 1024**n for n, unit in enumerate("KMGTPE", 1)}


def quantity(text):
    """What a quantity comes to; None for none."""
    found = QUANTITY.match(str(text))
    return Decimal(found[1]) * SCALE[found[2]] if found else None


def shapes(manifests):
    """Names of fields, types and what must be there, in each version of the API that is asked for."""
    for document in manifests.documents:
        own = SCHEMAS / f"{document['kind'].lower()}.json"
        if own.exists():
            validator = jsonschema.Draft202012Validator(json.loads(own.read_text()))
            for error in validator.iter_errors(document):
                yield f"{label(document)}: {error.json_path}: {error.message}"
            continue
        for version in manifests.versions or [kubernetes_validate.latest_version()]:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(map(str, error.path))
                yield f"{label(document)}: {path or 'at its top'}: {error.message} (Kubernetes {version})"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{label(document)}: {error.message}"


def words(manifests):
    for document in manifests.documents:
        for path, value in walk(document):
            if not isinstance(value, (str, int, float, bool)):
                continue
            *above, key = re.sub(r"\[\d+\]", "", path).split(".")
            allowed = WORDS.get(key)
            if key == "type" and above:
                allowed = TYPES.get(document["kind"] if above == ["spec"] else above[-1])
            if key == "restartPolicy":
                # A container has but one word: the one that makes an init container a sidecar.
                allowed = {"Always"} if above[-1] == "initContainers" else {"Always", "OnFailure", "Never"}
            if key == "policyTypes":
                allowed = {"Ingress", "Egress"}
            if key == "fieldPath":
                allowed = FIELDS if not str(value).startswith(("metadata.labels['", "metadata.annotations['")) else None
            if "data" in above[:1] or "annotations" in above or "labels" in above or allowed is None:
                continue
            if value not in allowed:
                yield f"{label(document)}: {path}: {value!r} is not one of {', '.join(sorted(allowed))}"


def quantities(manifests):
    for pod in manifests.pods:
        for container in pod.containers:
            resources = container.get("resources") or {}
            where = f"{pod.where}: {container['name']}"
            for kind in ("requests", "limits"):
                for name, text in (resources.get(kind) or {}).items():
                    amount = quantity(text)
                    if amount is None or amount < 0:
                        yield f"{where}: {kind}.{name}: {text!r} is no quantity"
                    elif name == "memory" and amount < 1 << 20:
                        yield f"{where}: {kind}.memory: {text!r} is less than a MiB"
            for name in ("cpu", "memory"):
                asked, most = (quantity((resources.get(kind) or {}).get(name, "-")) for kind in ("requests", "limits"))
                if asked is None:
                    yield f"{where}: requests no {name}"
                elif most is not None and asked > most:
                    yield f"{where}: requests more {name} than its limit allows"
            if quantity((resources.get("limits") or {}).get("memory", "-")) is None:
                yield f"{where}: has no limit of memory"
        for volume in pod.volumes.values():
            size = (volume.get("emptyDir") or {}).get("sizeLimit")
            if size is not None and quantity(size) is None:
                yield f"{pod.where}: volume {volume['name']}: sizeLimit: {size!r} is no quantity"


RULES = [shapes, words, quantities]
