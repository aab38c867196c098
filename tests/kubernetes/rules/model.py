"""Manifests, and what is asked of them again and again."""

PODS_OF = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def label(document):
    return f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"


def walk(value, path=""):
    """Every mapping and value below `value`, with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{path}[{index}]")


class Pod:
    """A pod, or what a workload makes pods of."""

    def __init__(self, document, template):
        self.document = document
        self.where = label(document)
        self.metadata = template.get("metadata") or {}
        self.labels = self.metadata.get("labels") or {}
        self.annotations = self.metadata.get("annotations") or {}
        self.spec = template.get("spec") or {}
        self.volumes = {volume["name"]: volume for volume in self.spec.get("volumes") or []}
        self.init = self.spec.get("initContainers") or []
        self.main = self.spec.get("containers") or []
        self.containers = self.init + self.main

    def ports(self):
        return [port for container in self.containers for port in container.get("ports") or []]

    def has_port(self, port):
        """By name it must be there; a number too, for all that is meant to be reached is told here."""
        return any(port in (each.get("name"), each.get("containerPort")) for each in self.ports())

    def everlinks(self):
        """The containers that run everlink: by their image, wherever it comes from."""
        return [each for each in self.containers if image_name(each.get("image", "")) == "everlink"]


def image_name(image):
    return image.split("@")[0].split("/")[-1].split(":")[0]


class Manifests:
    def __init__(self, documents, versions=(), documented=""):
        self.documents = documents
        self.versions = versions
        self.documented = documented
        self.pods = [Pod(each, self._template(each)) for each in documents if each["kind"] in PODS_OF]

    @staticmethod
    def _template(document):
        inner = document
        for key in PODS_OF[document["kind"]]:
            inner = inner.get(key) or {}
        return inner

    def of(self, *kinds):
        return [each for each in self.documents if each["kind"] in kinds]

    def named(self, kind, name):
        found = [each for each in self.of(kind) if each["metadata"].get("name") == name]
        return found[0] if found else None

    def selected(self, selector):
        """The pods that a label selector chooses; a plain mapping is one of exact labels."""
        selector = selector or {}
        if "matchLabels" not in selector and "matchExpressions" not in selector:
            selector = {"matchLabels": selector}
        return [pod for pod in self.pods if matches(selector, pod.labels)]


def matches(selector, labels):
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions") or [])


def _holds(expression, labels):
    value, values = labels.get(expression["key"]), expression.get("values") or []
    return {
        "Exists": value is not None,
        "DoesNotExist": value is None,
        "In": value in values,
        "NotIn": value not in values,
    }.get(expression["operator"], False)
