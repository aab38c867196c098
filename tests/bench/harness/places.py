"""Where a run takes place: network namespaces of its own, on loopback or over a wire with delay."""
import ipaddress
import json
import os
import re
import subprocess
import tempfile
import threading
import time

from . import processes
from .machine import fail, say

USER = 65532


class Place:
    """Near (clients, sidecar) and far (gateway, server), each in a namespace; on loopback they are one."""
    near_ip = far_ip = "127.0.0.1"
    count, counting = 0, threading.Lock()

    def __init__(self, found, control):
        with Place.counting:
            Place.count += 1
            self.number = Place.count
        self.found, self.control, self.port, self.children, self.names = found, control, 20000, [], []
        self.dir = tempfile.mkdtemp(prefix="everlink-bench-")
        os.chmod(self.dir, 0o755)
        self.log = open(os.path.join(self.dir, "processes.log"), "ab")
        self.tag = f"bench{os.getpid()}-{self.number}"
        try:
            self.build()
            self.server = f"{self.far_ip}:{self.next_port()}"
            self.serve()
            self.wait_ready(self.far_ns, self.server)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        processes.stop(self.children)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        self.log.close()
        if not os.environ.get("BENCH_KEEP"):
            subprocess.run(["rm", "-rf", self.dir])

    def build(self):
        self.near_ns = self.far_ns = self.namespace("lo")
        self.set_control(self.near_ns, [("local 127.0.0.0/8", "lo", "host", "127.0.0.1"), ("local 127.0.0.1", "lo", "host", "127.0.0.1")])

    def namespace(self, suffix):
        name = f"{self.tag}{suffix}"
        ip("netns", "add", name)
        self.names.append(name)
        inside(name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        # Ports of listeners end where those of connections begin.
        inside(name, "sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
        inside(name, "ip", "link", "set", "lo", "up")
        return name

    def set_control(self, name, routes):
        """One congestion control for all connections. A namespace may set by sysctl only what the host allows everyone; a
        route may name any that the kernel has."""
        if self.control == "default":
            return
        quiet = subprocess.DEVNULL
        if subprocess.run(in_namespace(name, ["sysctl", "-qw", f"net.ipv4.tcp_congestion_control={self.control}"]), stderr=quiet).returncode == 0:
            return
        for route, device, scope, source in routes:
            table = ["table", "local"] if route.startswith("local") else []
            argv = ["ip", "-n", name, "route", "replace", *table, *route.split(), "dev", device, "proto", "kernel", "scope", scope,
                    "src", source, "congctl", self.control]
            if subprocess.run(argv, stderr=quiet).returncode:
                say(f"{self.control} cannot be set in a namespace here, neither by sysctl nor by route; all contenders share reno")
                inside(name, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
                self.control = "reno"
                return

    def next_port(self):
        self.port += 1
        if self.port > 32000:
            self.port = 20001
        return self.port

    def serve(self):
        """Starts the server."""
        self.serving = self.spawn(self.far_ns, [self.found["load"], "server", "--listen", self.server])

    def put(self, name, text, user=0):
        path = os.path.join(self.dir, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o600)
        os.chown(path, user, user)
        return path

    def spawn(self, namespace, argv, user=0, **options):
        """Starts a process; it is ended with the place at the latest."""
        if user:
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *argv]
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", self.log)
        child = subprocess.Popen(in_namespace(namespace, argv), stderr=self.log, start_new_session=True, **options)
        self.children.append(child)
        return child

    def stop(self, children):
        processes.stop(children)
        self.children = [child for child in self.children if child not in children]

    def load(self, *argv, timeout=60, namespace=None):
        """Runs one load on the near side: its JSON, or an `error`."""
        argv = in_namespace(namespace or self.near_ns, [self.found["load"], *argv])
        try:
            run = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
            return json.loads(run.stdout.strip().splitlines()[-1])
        except subprocess.TimeoutExpired:
            return {"error": "timeout"}
        except (IndexError, ValueError):
            return {"error": (run.stderr.strip().splitlines() or ["no output"])[-1][:160]}

    def interact(self, *argv):
        """Starts a load that is led by lines on its standard input."""
        return self.spawn(self.near_ns, [self.found["load"], *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def last_words(self):
        """The end of what its processes said."""
        with open(os.path.join(self.dir, "processes.log"), errors="replace") as file:
            return "".join(file.readlines()[-5:]).strip()

    def wait_listening(self, namespace, address, seconds=10):
        """Until somebody listens there."""
        end = time.time() + seconds
        while time.time() < end:
            if inside(namespace, "ss", "-Hltn", f"src {address}").strip():
                return
            time.sleep(0.05)

    def wait_ready(self, namespace, to, seconds=15):
        """Until a request through `to` is answered; what the connection's congestion control was."""
        end = time.time() + seconds
        while time.time() < end:
            told = self.load("first", "--to", to, "--rounds", 1, "--gap-ms", 0, timeout=10, namespace=namespace)
            if told.get("fails") == 0:
                self.seen = told.get("control")
                return True
            time.sleep(0.1)
        return False


class Wire(Place):
    """Near and far with a wire between, of 25 ms each way, 1 Gbit/s and a queue of 50 ms, that can be cut."""

    def build(self):
        third = self.number % 250
        self.near_ip, self.far_ip = f"10.99.{third}.1", f"10.99.{third}.2"
        self.near_ns, self.wire_ns, self.far_ns = (self.namespace(suffix) for suffix in "nwf")
        hardware = {}
        for outer, name, address in (("wire0", self.near_ns, self.near_ip), ("wire1", self.far_ns, self.far_ip)):
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", outer, "netns", self.wire_ns)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", self.wire_ns, "link", "set", outer, "up")
            hardware[address] = re.search(r"link/ether (\S+)", ip("-n", name, "link", "show", "eth0")).group(1)
            # Room for the path's bandwidth times its delay, so that the wire is the limit.
            inside(name, "sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 33554432")
            inside(name, "sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 33554432")
            network = str(ipaddress.ip_network(f"{address}/24", strict=False))
            self.set_control(name, [(network, "eth0", "link", address)])
        # Behind a router a cut makes no neighbour unreachable.
        for name, other in ((self.near_ns, self.far_ip), (self.far_ns, self.near_ip)):
            ip("-n", name, "neigh", "replace", other, "lladdr", hardware[other], "dev", "eth0", "nud", "permanent")
        # Ahead of all others, or a busy machine would make it a bad wire.
        self.wire = self.spawn(self.wire_ns, ["nice", "-n", "-15", self.found["load"], "wan", "--a", "wire0", "--b", "wire1"], stdin=subprocess.PIPE, text=True)
        time.sleep(0.3)

    def tell(self, word):
        self.wire.stdin.write(word + "\n")
        self.wire.stdin.flush()


def in_namespace(name, argv):
    return ["ip", "netns", "exec", name, *(str(word) for word in argv)]


def ip(*argv):
    run = subprocess.run(["ip", *argv], capture_output=True, text=True)
    if run.returncode:
        fail(f"ip {' '.join(argv)}: {run.stderr.strip()} (namespaces want root)")
    return run.stdout


def inside(name, *argv):
    run = subprocess.run(in_namespace(name, argv), capture_output=True, text=True)
    if run.returncode:
        fail(f"{' '.join(argv)}: {run.stderr.strip()}")
    return run.stdout
