"""everlink's configuration against the manifests around it. Whether it can be used at all is for `everlink check`."""

import re
import tomllib

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
# Of a pod that ends: until SIGTERM is there, and until the end of the process is seen.
MARGIN = 2


def seconds(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h)", text))


def listed(value):
    return value if isinstance(value, list) else [value]


def endpoints(value):
    return [each["address"] if isinstance(each, dict) else each for each in value]


def configured(manifests):
    """Each container that runs everlink, with what it reads; its text is None if that cannot be found."""
    for pod in manifests.pods:
        for container in pod.everlinks():
            args = container.get("args") or ["run", "--config", "/etc/everlink/config.toml"]
            path = args[args.index("--config") + 1] if "--config" in args[:-1] else ""
            text = None
            for mount in container.get("volumeMounts") or []:
                volume = pod.volumes.get(mount["name"], {})
                found = manifests.named("ConfigMap", (volume.get("configMap") or {}).get("name"))
                if found is not None and path.rsplit("/", 1)[0] == mount["mountPath"].rstrip("/"):
                    text = (found.get("data") or {}).get(path.rsplit("/", 1)[1])
            yield pod, container, path, text


def parsed(manifests):
    for pod, container, _, text in configured(manifests):
        try:
            if text is not None:
                yield pod, container, tomllib.loads(text), text
        except tomllib.TOMLDecodeError:
            pass


def read(manifests):
    for pod, container, path, text in configured(manifests):
        if text is None:
            yield f"{pod.where}: {container['name']}: nothing here mounts its configuration, {path or 'which it does not name'}"
            continue
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            yield f"{pod.where}: {container['name']}: its configuration is no TOML: {error}"


def variables(manifests):
    for pod, container, _, text in parsed(manifests):
        given = {each["name"] for each in container.get("env") or []}
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        for name in sorted(set(re.findall(r"\$\{(\w+)\}", text)) - given):
            if not container.get("envFrom"):
                yield f"{pod.where}: {container['name']}: its configuration wants the variable {name}, and it has none"


def listening(manifests):
    """The kubelet and Prometheus come from outside, and to the ports that are told."""
    for pod, container, config, _ in parsed(manifests):
        where = f"{pod.where}: {container['name']}"
        ports = {each["containerPort"] for each in container.get("ports") or []}
        http = config.get("http", {})
        wanted = [("http.listen", each) for each in listed(http.get("listen", "127.0.0.1:9900"))]
        if "gateway" in config:
            wanted += [("gateway.listen", each) for each in listed(config["gateway"]["listen"])]
        outside = set()
        for key, address in wanted:
            host, _, port = address.rpartition(":")
            if not host.startswith(("127.", "[::1]", "localhost")):
                outside.add(key)
                if not port.isdigit() or int(port) not in ports:
                    yield f"{where}: {key} is {address}, and the container tells no such port"
        for key in {key for key, _ in wanted} - outside:
            yield f"{where}: {key} is on the loopback alone, where nothing from outside the pod arrives"
        if http.get("public_status"):
            yield f"{where}: http.public_status shows the whole cluster what only this pod should see"
        advertise = config.get("gateway", {}).get("advertise")
        if pod.document["kind"] == "StatefulSet" and "gateway" in config and not advertise:
            yield f"{where}: without gateway.advertise a resume may meet another gateway behind the Service"


def drain(manifests):
    for pod, container, config, _ in parsed(manifests):
        where = f"{pod.where}: {container['name']}"
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        told = config.get("drain", {})
        timeout = seconds(told.get("timeout", "8s"))
        if timeout + MARGIN > grace:
            yield f"{where}: drain.timeout is {timeout:g} s, and it is killed after terminationGracePeriodSeconds, {grace}"
        together = container in pod.main and len(pod.main) > 1
        if together and told.get("minimum", "off") == "off":
            yield f"{where}: is told to end together with the application, and has no drain.minimum to serve it until then"


def files(manifests):
    """Files that the configuration names are mounted; those of what is here are there."""
    for pod, container, config, _ in parsed(manifests):
        mounts = {each["mountPath"].rstrip("/"): each for each in container.get("volumeMounts") or []}
        tables = [config.get("gateway", {}), config.get("gateway", {}).get("tls", {})]
        for upstream in config.get("upstreams", {}).values():
            tables += [upstream, upstream.get("tls", {})]
        named = [value for table in tables for key, value in table.items() if key.endswith("_file")]
        sockets = [config["admin"]["socket"]] if "admin" in config else []
        for path in named + sockets:
            directory, _, name = path.rpartition("/")
            if directory not in mounts:
                yield f"{pod.where}: {container['name']}: nothing is mounted at {directory} for {path}"
                continue
            if path in sockets:
                writable = "emptyDir" in pod.volumes.get(mounts[directory]["name"], {})
                if not writable or mounts[directory].get("readOnly"):
                    yield f"{pod.where}: {container['name']}: no socket can be made at {path}"


def targets(manifests):
    """Names without a dot are Services of the same namespace; those that are here have the port."""
    for pod, container, config, _ in parsed(manifests):
        wanted = [each for upstream in config.get("upstreams", {}).values() for each in endpoints(upstream.get("endpoints", []))]
        services = config.get("gateway", {}).get("services", {}).values()
        wanted += [each["address"] if isinstance(each, dict) else each for each in services]
        for address in wanted:
            host, _, port = address.rpartition(":")
            service = manifests.named("Service", host)
            if service is None:
                if "." not in host and not host.startswith("[") and manifests.of("Service"):
                    told = re.search(rf"\b{re.escape(host)}\b", manifests.documented)
                    if not told:
                        yield f"{pod.where}: {container['name']}: there is no Service {host} for {address}"
            elif int(port) not in [each["port"] for each in service["spec"]["ports"]]:
                yield f"{pod.where}: {container['name']}: Service {host} has no port {port}"


RULES = [read, variables, listening, drain, files, targets]
