"""The contenders of `tests/bench/compare`: how each starts, with its best sensible settings for links that fail, and how its
configuration is edited while it runs. The configurations are in `contenders/compare/`."""
import os
import re
import signal
from dataclasses import dataclass, field

from . import contenders
from .places import USER

# The number that the edit changes: seconds between two beats, checks or keepalives; nginx's time for a connect.
BEFORE, AFTER = 5, 4


@dataclass
class Running:
    """A contender that runs: its processes on the near side, on the far side (none in direct mode), and what edits it."""
    near: list
    far: list = field(default_factory=list)
    edit: object = None
    metrics: str = ""  # where Prometheus would ask


@dataclass(frozen=True)
class Peer:
    """`edited_by`: how it learns of an edit. `notices`: the line of its log that says that a link, a connection or the server is
    lost. `metrics`: its series that may tell so. `applied`: the line, or the series that moves, when an edit is in effect; none
    where it is started anew."""
    name: str
    kind: str
    needs: tuple
    start: object
    edited_by: str
    notices: str = ""
    metrics: str = ""
    applied: str = ""

    def noticed(self, line):
        return bool(self.notices) and re.search(self.notices, line) is not None


ALL = {}


def peer(name, kind, needs, edited_by, **more):
    def register(start):
        ALL[name] = Peer(name, kind, tuple(needs.split()), start, edited_by, **more)
        return start
    return register


def configured(stage, name, user=0, **more):
    """The path of a configuration, and what edits it as an editor does: by rename."""
    values = {"INTERVAL": BEFORE, **more}
    path = stage.config(f"compare/{name}", user, **values)

    def edit():
        text = stage.text(f"compare/{name}", **{**values, "INTERVAL": AFTER})
        os.rename(stage.place.put("edited", text, user), path)
    return path, edit


def signalled(edit, child, number):
    """The edit, and the signal that makes it known."""
    def both():
        edit()
        os.kill(child.pid, number)
    return both


def everlink(name, kind):
    return peer(name, kind, "everlink", "it watches the file", notices="link (suspect|lost)", applied="configuration applied",
                metrics=r"everlink_(upstream_up|link_losses_total|link_reconnects_total|session_resumes_total|link_downtime_seconds_total)")


@everlink("everlink", "direct")
def _(stage):
    path, edit = configured(stage, "everlink-direct.toml", USER)
    return Running([stage.everlink(stage.place.near_ns, path)], edit=edit, metrics=f"http://{stage.http}/metrics")


@peer("HAProxy", "direct", "haproxy", "SIGUSR2 to the master: a new process", notices=r"is DOWN| [sS][CD] ", applied="Reloading HAProxy",
      metrics=r"haproxy_server_(status|check_status|check_failures_total|check_up_down_total|downtime_seconds_total|connection_errors_total)")
def _(stage):
    path, edit = configured(stage, "haproxy.cfg")
    child = stage.on_near("haproxy", "-W", "-f", path)
    return Running([child], edit=signalled(edit, child, signal.SIGUSR2), metrics=f"http://{stage.http}/metrics")


@peer("nginx", "direct", "nginx", "SIGHUP: new workers", notices=r"upstream timed out|\(104: |\(110: |\(111: ", applied="reconfiguring")
def _(stage):
    path, edit = configured(stage, "nginx.conf")
    child = stage.on_near("nginx", "-p", stage.place.dir, "-c", path)
    return Running([child], edit=signalled(edit, child, signal.SIGHUP))


def envoy(spawn, stage, path):
    return spawn("envoy", "-c", path, "--concurrency", 2, "--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", 100)


def envoy_near(stage, name, cluster):
    edited, edit = configured(stage, cluster, LOG=stage.place.log.name)
    child = envoy(stage.on_near, stage, stage.config(f"compare/{name}", EDITED=edited))
    return Running([child], edit=edit, metrics=f"http://{stage.http}/stats/prometheus")


ENVOY = r"envoy_cluster_(membership_healthy|health_check_failure|upstream_cx_connect_fail|http2_keepalive_timeout|manager_cluster_modified)"
ENVOY_SAYS = r"eject_unhealthy|flags=U|upstream=Remote"


@peer("Envoy", "direct", "envoy", "the cluster's file is watched", notices=ENVOY_SAYS, metrics=ENVOY, applied="cluster_manager_cluster_modified")
def _(stage):
    return envoy_near(stage, "envoy.yaml", "envoy-cluster.yaml")


@peer("realm", "direct", "realm", "a restart: there is no reload")
def _(stage):
    start = lambda: stage.on_near("realm", stage.listen, stage.place.server, BEFORE)
    running = Running([start()])

    def restart():
        stage.place.stop(running.near)
        running.near = [start()]
    running.edit = restart
    return running


@everlink("everlink, tunnel", "tunnel")
def _(stage):
    stage.token()
    path, edit = configured(stage, "everlink-near.toml", USER)
    far = stage.everlink(stage.place.far_ns, stage.config("compare/everlink-far.toml", USER))
    return Running([stage.everlink(stage.place.near_ns, path)], [far], edit, f"http://{stage.http}/metrics")


@peer("autossh", "tunnel", "ssh sshd autossh", "SIGUSR1 to autossh: a new ssh", notices=r"not responding|Broken pipe|Connection (reset|closed)|disconnect")
def _(stage):
    stage.ssh_keys()
    path, edit = configured(stage, "ssh_config")
    far = stage.on_far("sshd", "-D", "-e", "-p", stage.far.split(":")[1], "-f", stage.config("compare/sshd_config"))
    stage.place.wait_listening(stage.place.far_ns, stage.far)
    env = dict(os.environ, AUTOSSH_GATETIME="0", AUTOSSH_PATH=stage.found["ssh"])
    near = stage.on_near("autossh", "-M", "0", "-N", "-T", "-F", path, "gateway", env=env)
    return Running([near], [far], signalled(edit, near, signal.SIGUSR1))


@peer("stunnel", "tunnel", "stunnel openssl", "SIGHUP", notices=r"\((104|110|111)\)|timed out|reset by peer", applied="Configuration successful")
def _(stage):
    stage.certificates()
    path, edit = configured(stage, "stunnel-near.conf")
    far = stage.on_far("stunnel", stage.config("compare/stunnel-far.conf"))
    near = stage.on_near("stunnel", path)
    return Running([near], [far], signalled(edit, near, signal.SIGHUP))


@peer("rathole", "tunnel", "rathole", "it watches the file, and starts its links anew",
      notices=r"[Tt]imed out|Retry in|Failed to read|shutting down", applied="Restarting")
def _(stage):
    path, edit = configured(stage, "rathole-server.toml")
    env = dict(os.environ, RUST_LOG="info")
    near = stage.on_near("rathole", "--server", path, env=env)
    return Running([near], [stage.on_far("rathole", "--client", stage.config("compare/rathole-client.toml"), env=env)], edit)


@peer("Envoy CONNECT", "tunnel", "envoy", "the cluster's file is watched", notices=ENVOY_SAYS, metrics=ENVOY, applied="cluster_manager_cluster_modified")
def _(stage):
    far = envoy(stage.on_far, stage, stage.config("compare/envoy-far.yaml"))
    running = envoy_near(stage, "envoy-near.yaml", "envoy-gateway.yaml")
    running.far = [far]
    return running


def restarted(running, start):
    """The edit of a program that reads its settings at the start only."""
    def restart():
        for child in running.near:
            os.kill(child.pid, signal.SIGTERM)
            child.wait(10)
        running.near = [start(AFTER)]
    running.edit = restart
    return running


@peer("frp", "tunnel", "frps frpc", "a restart: keepalive is not reloaded",
      notices=r"heartbeat timeout|control writer|close the control|i/o timeout|session shutdown")
def _(stage):
    near = lambda interval: stage.on_near("frps", "-c", stage.config("compare/frps.toml", INTERVAL=interval))
    running = Running([near(BEFORE)], [stage.on_far("frpc", "-c", stage.config("compare/frpc.toml", INTERVAL=BEFORE))])
    return restarted(running, near)


@peer("chisel", "tunnel", "chisel", "a restart: there is no file", notices=r"Disconnected|Retrying|ping")
def _(stage):
    host, port = stage.far.split(":")
    far = stage.on_far("chisel", "server", "--host", host, "--port", port, "--keepalive", "5s")
    near = lambda interval: stage.on_near("chisel", "client", "--keepalive", f"{interval}s", "--max-retry-interval", "1s", f"http://{stage.far}",
                                          f"{stage.listen}:{stage.place.server}")
    return restarted(Running([near(BEFORE)], [far]), near)


@peer("wstunnel", "tunnel", "wstunnel", "a restart: there is no file", notices=r"ping|timed out|[Cc]losing|error")
def _(stage):
    far = stage.on_far("wstunnel", "server", "--websocket-ping-frequency", "5s", f"ws://{stage.far}")
    near = lambda interval: stage.on_near("wstunnel", "client", "--websocket-ping-frequency", f"{interval}s", "-L",
                                          f"tcp://{stage.listen}:{stage.place.server}", f"ws://{stage.far}")
    return restarted(Running([near(BEFORE)], [far]), near)
