"""A road for the page to show: everlink processes, servers that answer pings, and a relay that can be cut."""

import contextlib
import ctypes
import json
import os
import pathlib
import random
import selectors
import signal
import socket
import subprocess
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 30
TOKEN = "0123456789abcdef0123456789abcdef"


def wait_until(what, condition, patience=PATIENCE):
    """Waits until `condition` returns something, and returns that."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.03)


def free_port():
    """A port that nobody listens on, outside the range from which the kernel picks."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def program():
    """The everlink to run: the one that the test names, else the newest that is built."""
    named = os.environ.get("EVERLINK")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "release/everlink", target / "debug/everlink") if path.exists()]
    assert named or built, "build everlink first: cargo build --release"
    return named or str(max(built, key=lambda path: path.stat().st_mtime))


def dies_with_us():
    """In the child: is killed when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def direct(name, port, listen=0, rest="", host="127.0.0.1"):
    """An upstream whose server answers pings."""
    return f"""
[upstreams.{name}]
listen = "127.0.0.1:{listen}"
endpoints = ["{host}:{port}"]
heartbeat = {{ send = "ping", expect = "pong" }}
{rest}
"""


def tunnel(name, port, listen, service, host="127.0.0.1"):
    """An upstream that reaches a service of the gateway at a port."""
    return f"""
[upstreams.{name}]
mode = "tunnel"
endpoints = ["{host}:{port}"]
insecure_plaintext = true
token_file = "token"
[[upstreams.{name}.forwards]]
listen = "127.0.0.1:{listen}"
service = "{service}"
"""


def gateway(port, service, leads_to):
    """The far end of tunnels, with one service."""
    return f"""
[gateway]
listen = "127.0.0.1:{port}"
name = "gw-1"
insecure_plaintext = true
token_file = "token"
[gateway.services]
{service} = "127.0.0.1:{leads_to}"
"""


class Everlink:
    """A process with a configuration and a token of its own, in a directory of that name."""

    def __init__(self, directory, name, config, port=0):
        self.place = pathlib.Path(directory) / name
        self.place.mkdir(exist_ok=True)
        token = self.place / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self.file = self.place / "config.toml"
        self.port = port or free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.write(config)
        self.start()

    def write(self, config):
        head = f'[http]\nlisten = "127.0.0.1:{self.port}"\n[drain]\ntimeout = "3s"\nquiet = "100ms"\n[admin]\nsocket = "{self.place}/admin.sock"\n'
        fresh = self.file.with_suffix(".new")
        fresh.write_text(head + config)
        fresh.chmod(0o600)
        fresh.rename(self.file)

    def start(self):
        self.log = open(self.place / "log", "ab")
        self.process = subprocess.Popen(
            [program(), "run", "--config", str(self.file)],
            cwd=self.place, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=dies_with_us,
        )
        wait_until(f"everlink starts:\n{(self.place / 'log').read_text()}", self.answers)

    def answers(self):
        assert self.process.poll() is None, (self.place / "log").read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(self.http + "/startupz", timeout=5).status == 200

    def status(self, query=""):
        with urllib.request.urlopen(f"{self.http}/status{query}", timeout=PATIENCE) as answer:
            return json.load(answer)

    def ask(self, *order):
        """Over the admin socket, by the program's own command."""
        subprocess.run([program(), *order, "--socket", str(self.place / "admin.sock")], check=True, stdout=subprocess.DEVNULL)

    def upstream(self, name):
        return next(u for u in self.status()["upstreams"] if u["name"] == name)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Server:
    """Listens on a port of its own while it is up; `serve(connection)` runs for each connection in a thread."""

    def __init__(self, serve, port=0):
        self.serve, self.connections, self.listener = serve, set(), None
        self.port = port or free_port()
        self.start()

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections.add(connection)
                threading.Thread(target=self.run, args=(connection,), daemon=True).start()

    def run(self, connection):
        with contextlib.suppress(OSError), connection:
            self.serve(connection)
        self.connections.discard(connection)

    def stop(self):
        """Refuses from now on, and ends what there is."""
        if self.listener:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def pong(delay=0.0):
    """Answers `ping` with `pong` after about so many seconds and echoes the rest."""
    def serve(connection):
        while data := connection.recv(65536):
            if delay:
                time.sleep(delay * random.uniform(0.8, 1.5))
            connection.sendall(data.replace(b"ping", b"pong"))
    return serve


class Relay(Server):
    """Between a sidecar and its gateway. While `silent` it takes no byte off either side, as a dead network does."""

    def __init__(self, to, delay=0.0):
        self.to, self.delay, self.silent = to, delay, threading.Event()
        super().__init__(self.pass_on)

    def pass_on(self, near):
        with socket.create_connection(("127.0.0.1", self.to)) as far:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections.add(far)
            selector = selectors.DefaultSelector()
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            with selector:
                while True:
                    if self.silent.is_set():
                        time.sleep(0.02)
                        if near.fileno() < 0 or near not in self.connections:
                            return
                        continue
                    for key, _ in selector.select(0.05):
                        if self.silent.is_set():
                            break
                        data = key.fileobj.recv(65536)
                        if not data:
                            return
                        if self.delay:
                            time.sleep(self.delay * random.uniform(0.7, 1.4))
                        key.data.sendall(data)
            self.connections.discard(far)


class Client:
    """Sends a block again and again and reads it back, until it is stopped."""

    def __init__(self, port, block=4096, pause=0.05):
        self.stopped, self.exchanges, self.broken = threading.Event(), 0, None
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self.run, args=(b"x" * block, pause), daemon=True).start()

    def run(self, block, pause):
        try:
            with self.connection:
                while not self.stopped.wait(pause * random.uniform(0.5, 1.5)):
                    self.connection.sendall(block)
                    left = len(block)
                    while left:
                        data = self.connection.recv(left)
                        if not data:
                            raise OSError("ended")
                        left -= len(data)
                    self.exchanges += 1
        except OSError as error:
            self.broken = error

    def stop(self):
        self.stopped.set()
