"""The system calls that generated code may not make, as a filter that the kernel runs (seccomp).

Everything is allowed but what is listed, which fails with EPERM. Listed are: child processes and
threads; sockets; memory that no limit counts (System V and POSIX queues and shared memory, memory
files); looking into other processes; namespaces and mounts; the kernel's log and keys; and the
interfaces through which kernels have been broken most.
"""

import functools
import platform
import struct

# io_uring_setup/enter/register open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open clone3
# pidfd_getfd mount_setattr memfd_secret: numbered alike on every machine.
_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 435, 438, 442, 447)
_REFUSED: dict[str, tuple[int, dict[str, int]]] = {
    # machine: (audit architecture, calls)
    "x86_64": (
        0xC000003E,
        {
            **{"shmget": 29, "socket": 41, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58},
            **{"semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103, "pivot_root": 155},
            **{"chroot": 161, "mount": 165, "umount2": 166, "io_setup": 206, "mq_open": 240},
            **{"add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272},
            **{"perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303},
            **{"open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310},
            **{"process_vm_writev": 311, "kcmp": 312, "memfd_create": 319, "bpf": 321},
            **{"execveat": 322, "userfaultfd": 323},
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            **{"io_setup": 0, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51},
            **{"unshare": 97, "syslog": 116, "ptrace": 117, "mq_open": 180, "msgget": 186},
            **{"semget": 190, "shmget": 194, "socket": 198, "socketpair": 199, "add_key": 217},
            **{"request_key": 218, "keyctl": 219, "clone": 220, "perf_event_open": 241},
            **{"fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265},
            **{"setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272},
            **{"memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282},
        },
    ),
}
MACHINES = tuple(_REFUSED)

_LOAD, _JUMP_EQUAL, _JUMP_FROM, _GIVE = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050001  # the last: EPERM


@functools.cache
def system_call_filter() -> bytes:
    """Classic BPF for this machine, as bubblewrap takes it. Raises KeyError outside `MACHINES`."""
    architecture, calls = _REFUSED[platform.machine()]
    refused = sorted({*calls.values(), *_EVERYWHERE})
    program = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_GIVE, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        # Numbers from here on are x86-64's second (x32) table: the same calls by another name.
        (_JUMP_FROM, len(refused) + 1, 0, 0x40000000),
        *((_JUMP_EQUAL, len(refused) - i, 0, call) for i, call in enumerate(refused)),
        (_GIVE, 0, 0, _ALLOW),
        (_GIVE, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
