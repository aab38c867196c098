"""What leads to pods from elsewhere: Services, budgets, policies, monitors, annotations."""

from .model import label


def services(manifests):
    for service in manifests.of("Service"):
        selector = service["spec"].get("selector")
        if not selector:
            continue
        pods = manifests.selected(selector)
        if not pods:
            yield f"{label(service)}: its selector chooses no pod"
        names = [port.get("name") for port in service["spec"].get("ports") or []]
        if len(names) > 1 and None in names:
            yield f"{label(service)}: of several ports each needs a name"
        for port in service["spec"].get("ports") or []:
            target = port.get("targetPort", port["port"])
            for pod in pods:
                if not pod.has_port(target):
                    yield f"{label(service)}: {pod.where} has no port {target}"


def budgets(manifests):
    for budget in manifests.of("PodDisruptionBudget"):
        spec = budget["spec"]
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{label(budget)}: names minAvailable or maxUnavailable, one of them"
        pods = manifests.selected(spec.get("selector"))
        if not pods:
            yield f"{label(budget)}: its selector chooses no pod"
        for pod in pods:
            replicas = pod.document["spec"].get("replicas", 1)
            if spec.get("maxUnavailable") in (0, "0%") or spec.get("minAvailable") in (replicas, "100%"):
                yield f"{label(budget)}: no pod of {pod.where} may ever be evicted"


def policies(manifests):
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        pods = manifests.selected(spec.get("podSelector"))
        if not pods:
            yield f"{label(policy)}: its selector chooses no pod"
        for direction, rules in (("Ingress", spec.get("ingress")), ("Egress", spec.get("egress"))):
            if rules is not None and direction not in spec.get("policyTypes", []):
                yield f"{label(policy)}: its rules for {direction} are not in force: policyTypes does not name it"
        for rule in spec.get("ingress") or []:
            for port in rule.get("ports") or []:
                for pod in pods:
                    if not pod.has_port(port.get("port")):
                        yield f"{label(policy)}: {pod.where} has no port {port.get('port')}"


def scrapes(manifests):
    for monitor in manifests.of("PodMonitor"):
        pods = manifests.selected(monitor["spec"].get("selector"))
        if not pods:
            yield f"{label(monitor)}: its selector chooses no pod"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for pod in pods:
                if not any(each.get("name") == endpoint.get("port") for each in pod.ports()):
                    yield f"{label(monitor)}: {pod.where} has no port {endpoint.get('port')}"
    for pod in manifests.pods:
        if pod.annotations.get("prometheus.io/scrape") == "true":
            port = pod.annotations.get("prometheus.io/port", "")
            if not port.isdigit() or not pod.has_port(int(port)):
                yield f"{pod.where}: prometheus.io/port: there is no port {port or 'named'}"


RULES = [services, budgets, policies, scrapes]
