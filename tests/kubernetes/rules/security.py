"""The restricted profile of the pod security standards, and who may read mounted secrets."""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HOST = ("hostNetwork", "hostPID", "hostIPC")


def restricted(manifests):
    for pod in manifests.pods:
        for key in HOST:
            if pod.spec.get(key):
                yield f"{pod.where}: {key} is not allowed"
        for name, volume in pod.volumes.items():
            for kind in volume.keys() - VOLUMES - {"name"}:
                yield f"{pod.where}: volume {name}: {kind} is not allowed"
        above = pod.spec.get("securityContext") or {}
        for key in ("sysctls",):
            if above.get(key):
                yield f"{pod.where}: {key} want an eye of their own"
        for container in pod.containers:
            where = f"{pod.where}: {container['name']}"
            own = container.get("securityContext") or {}
            both = above | own
            if both.get("runAsNonRoot") is not True:
                yield f"{where}: runAsNonRoot must be true"
            if both.get("runAsUser") == 0:
                yield f"{where}: runAsUser must not be 0"
            if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
                yield f"{where}: seccompProfile must be RuntimeDefault"
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where}: allowPrivilegeEscalation must be false"
            if own.get("privileged"):
                yield f"{where}: privileged is not allowed"
            capabilities = own.get("capabilities") or {}
            if "ALL" not in (capabilities.get("drop") or []):
                yield f"{where}: capabilities must drop ALL"
            if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
                yield f"{where}: capabilities must add none"
            # Beyond the profile.
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where}: readOnlyRootFilesystem must be true"
            if any("hostPort" in port for port in container.get("ports") or []):
                yield f"{where}: hostPort is not allowed"


def secrets(manifests):
    """everlink warns of keys that everyone can read and refuses files that others can write; and it must read them."""
    for pod in manifests.pods:
        for container in pod.everlinks():
            for mount in container.get("volumeMounts") or []:
                secret = pod.volumes.get(mount["name"], {}).get("secret")
                if secret is None:
                    continue
                where = f"{pod.where}: volume {mount['name']}"
                modes = [secret.get("defaultMode", 0o644)] + [item.get("mode") for item in secret.get("items") or []]
                for mode in modes:
                    if mode is not None and mode & 0o026:
                        yield f"{where}: mode {mode:04o} lets others read or write it; 0440 does"
                    if mode is not None and not mode & 0o040:
                        yield f"{where}: mode {mode:04o} keeps everlink out, for the files are root's; 0440 does"
                if not (pod.spec.get("securityContext") or {}).get("fsGroup"):
                    yield f"{where}: without fsGroup the files are root's alone, and everlink may not read them"


RULES = [restricted, secrets]
