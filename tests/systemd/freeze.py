"""Stops one thread of another process until our standard input ends: freeze.py THREAD."""

import ctypes
import os
import sys

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
thread = int(sys.argv[1])


def ptrace(request):
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")


ptrace(SEIZE)
ptrace(INTERRUPT)
os.waitpid(thread, WALL)
print("frozen", flush=True)
sys.stdin.read()
ptrace(DETACH)
