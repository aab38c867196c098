"""Process trees: what they cost, and how they end."""
import os
import signal
import time

TICK = os.sysconf("SC_CLK_TCK")


def stat(pid):
    """Fields of /proc/PID/stat from the state on; `None` when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


def tree(roots):
    """The given processes and all their living descendants."""
    parent = {int(name): int(fields[1]) for name in os.listdir("/proc") if name.isdigit() and (fields := stat(name))}
    found = {pid for pid in roots if pid in parent}
    while more := {child for child, of in parent.items() if of in found and child not in found}:
        found |= more
    return found


def clock(pid):
    """Seconds that all threads of a process have run, those that have ended included; exact, where `stat` counts in ticks."""
    try:
        return time.clock_gettime_ns(~pid << 3 | 2) / 1e9  # what clock_getcpuclockid(3) makes of it
    except OSError:
        return 0.0


def cpu(roots):
    """Seconds of user and system time, those of reaped children included."""
    return sum(clock(pid) + sum(int(ticks) for ticks in fields[13:15]) / TICK for pid in tree(roots) if (fields := stat(pid)))


def lines(pid, name):
    try:
        with open(f"/proc/{pid}/{name}") as file:
            return file.readlines()
    except OSError:
        return []


def memory(roots):
    """Resident KiB, each shared page counted in every process."""
    return sum(int(line.split()[1]) for pid in tree(roots) for line in lines(pid, "smaps_rollup") if line.startswith("Rss:"))


def peak(roots):
    """Resident KiB at the peak."""
    return sum(int(line.split()[1]) for pid in tree(roots) for line in lines(pid, "status") if line.startswith("VmHWM:"))


def stop(children):
    """Ends these processes and their descendants, each by its id."""
    left = tree([child.pid for child in children])
    for word in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            try:
                os.kill(pid, word)
            except OSError:
                pass
        end = time.time() + (0.5 if word == signal.SIGTERM else 5)
        while left and time.time() < end:
            for child in children:
                child.poll()
            left = {pid for pid in left if (fields := stat(pid)) and fields[0] != "Z"}
            time.sleep(0.02)
        if not left:
            return
