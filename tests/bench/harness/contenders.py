"""The contenders: how each is started from its configuration in `contenders/`."""
import os
import secrets
import shutil
import subprocess

from .machine import BENCH, NGINX_STREAM
from .places import USER


class Contender:
    """`kinds`: what it competes in, of direct, tunnel, tls, and limit, which is no contest. `idle`: how many connections it
    can open in a minute or less."""

    def __init__(self, name, kinds, needs, start, colour="peer", idle=5000):
        self.name, self.kinds, self.needs, self.start, self.colour = name, kinds.split(), needs.split(), start, colour
        self.idle = idle


ALL = {}


def contender(name, kinds, needs="", **options):
    def register(start):
        ALL[name] = Contender(name, kinds, needs, start, **options)
        return start
    return register


class Stage:
    """One start of one contender: its addresses, and its configurations with those filled in."""

    def __init__(self, place, listen):
        self.place, self.found = place, place.found
        self.listen = listen
        self.near, self.far = f"{place.near_ip}:{place.next_port()}", f"{place.far_ip}:{place.next_port()}"
        self.http = f"127.0.0.1:{place.next_port()}"

    def text(self, name, **more):
        """A configuration from `contenders/`, filled in."""
        with open(os.path.join(BENCH, "contenders", name)) as file:
            text = file.read()
        values = {"LISTEN": self.listen, "SERVER": self.place.server, "NEAR": self.near, "FAR": self.far, "HTTP": self.http}
        for key, address in list(values.items()):
            values[f"{key}_IP"], values[f"{key}_PORT"] = address.split(":")
        values |= {"DIR": self.place.dir, "NGINX_STREAM": NGINX_STREAM, **more}
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        return text

    def config(self, name, user=0, **more):
        """The path of a configuration that is filled in."""
        return self.place.put(f"{self.place.next_port()}-{os.path.basename(name)}", self.text(name, **more), user)

    def on_near(self, program, *argv, **options):
        return self.place.spawn(self.place.near_ns, [self.found[program], *argv], **options)

    def on_far(self, program, *argv, **options):
        return self.place.spawn(self.place.far_ns, [self.found[program], *argv], **options)

    def once(self, name, make):
        path = os.path.join(self.place.dir, name)
        if not os.path.exists(path):
            make(path)
        return path

    def certificates(self):
        """An authority and a certificate of the gateway, on P-256."""
        def make(directory):
            os.mkdir(directory, 0o755)
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            openssl = lambda *argv: subprocess.run(["openssl", *argv], cwd=directory, check=True, stderr=subprocess.DEVNULL)
            openssl("req", "-x509", *key, "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.pem")
            openssl("req", "-x509", *key, "-subj", "/CN=gateway", "-addext", "subjectAltName=DNS:gateway", "-addext",
                    "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "gateway.key",
                    "-out", "gateway.pem")
            for name in os.listdir(directory):
                os.chown(os.path.join(directory, name), USER, USER)
        self.once("tls", make)

    def ssh_keys(self):
        def keys(path):
            for name in (path, os.path.join(os.path.dirname(path), "ssh_host_key")):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
        self.once("ssh_key", keys)
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)

    def token(self):
        self.once("token", lambda path: self.place.put("token", secrets.token_hex(32), USER))

    def everlink(self, namespace, path):
        """Without any privilege, in every row."""
        program = self.once("everlink", lambda path: copy_program(self.found["everlink"], path))
        return self.place.spawn(namespace, [program, "run", "--config", path], user=USER)


def copy_program(source, path):
    """To where every user may run it."""
    shutil.copyfile(source, path)
    os.chmod(path, 0o755)


@contender("no proxy", "direct tunnel tls", colour="none")
def _(stage):
    stage.listen = stage.place.server
    return []


@contender("splice loop", "limit", colour="limit")
def _(stage):
    return [stage.on_near("load", "splice", "--listen", stage.listen, "--to", stage.place.server)]


@contender("two splice loops", "limit", colour="limit")
def _(stage):
    return [stage.on_far("load", "splice", "--listen", stage.far, "--to", stage.place.server),
            stage.on_near("load", "splice", "--listen", stage.listen, "--to", stage.far)]


@contender("HAProxy", "direct", "haproxy")
def _(stage):
    return [stage.on_near("haproxy", "-db", "-f", stage.config("haproxy.cfg"))]


@contender("HAProxy, splice", "direct", "haproxy")
def _(stage):
    return [stage.on_near("haproxy", "-db", "-f", stage.config("haproxy-splice.cfg"))]


@contender("nginx", "direct", "nginx")
def _(stage):
    return [stage.on_near("nginx", "-p", stage.place.dir, "-c", stage.config("nginx.conf"))]


@contender("realm", "direct", "realm")
def _(stage):
    return [stage.on_near("realm", stage.listen, stage.place.server)]


def envoy(spawn, stage, name):
    return spawn("envoy", "-c", stage.config(name), "--concurrency", 2, "--disable-hot-restart", "--log-level", "error")


@contender("Envoy", "direct", "envoy")
def _(stage):
    return [envoy(stage.on_near, stage, "envoy.yaml")]


@contender("Envoy CONNECT", "tunnel", "envoy")
def _(stage):
    return [envoy(stage.on_far, stage, "envoy-far.yaml"), envoy(stage.on_near, stage, "envoy-near.yaml")]


@contender("tokio loop, 64 KiB", "direct")
def _(stage):
    return [stage.on_near("load", "relay", "--listen", stage.listen, "--to", stage.place.server, "--buf", 65536)]


@contender("everlink", "direct", "everlink", colour="everlink")
def _(stage):
    return [stage.everlink(stage.place.near_ns, stage.config("everlink-direct.toml", USER))]


@contender("two tokio loops", "tunnel")
def _(stage):
    return [stage.on_far("load", "relay", "--listen", stage.far, "--to", stage.place.server),
            stage.on_near("load", "relay", "--listen", stage.listen, "--to", stage.far)]


@contender("ssh -L", "tunnel tls", "ssh sshd autossh", idle=1000)
def _(stage):
    stage.ssh_keys()
    far = stage.on_far("sshd", "-D", "-e", "-p", stage.far.split(":")[1], "-f", stage.config("sshd_config"))
    stage.place.wait_listening(stage.place.far_ns, stage.far)
    env = dict(os.environ, AUTOSSH_GATETIME="0", AUTOSSH_PATH=stage.found["ssh"])
    near = stage.on_near("autossh", "-M", "0", "-N", "-T", "-F", stage.config("ssh_config"), "gateway", env=env)
    return [near, far]


@contender("stunnel", "tunnel tls", "stunnel openssl", idle=1000)
def _(stage):
    stage.certificates()
    return [stage.on_far("stunnel", stage.config("stunnel-far.conf")), stage.on_near("stunnel", stage.config("stunnel-near.conf"))]


@contender("rathole", "tunnel", "rathole")
def _(stage):
    env = dict(os.environ, RUST_LOG="error")
    return [stage.on_near("rathole", "--server", stage.config("rathole-server.toml"), env=env),
            stage.on_far("rathole", "--client", stage.config("rathole-client.toml"), env=env)]


@contender("everlink, tunnel", "tunnel", "everlink", colour="everlink")
def _(stage):
    stage.token()
    return [stage.everlink(stage.place.far_ns, stage.config("everlink-far.toml", USER)),
            stage.everlink(stage.place.near_ns, stage.config("everlink-near.toml", USER))]


@contender("everlink, TLS", "tls", "everlink openssl", colour="everlink")
def _(stage):
    stage.token()
    stage.certificates()
    return [stage.everlink(stage.place.far_ns, stage.config("everlink-tls-far.toml", USER)),
            stage.everlink(stage.place.near_ns, stage.config("everlink-tls-near.toml", USER))]
