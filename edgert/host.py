"""What this machine is, and the calls that differ from one operating system to another.

The one file with POSIX-only and Windows-only calls; what to make of the facts is left to `profile` and
`runtime`.
"""

import contextlib
import errno
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgert.errors import EnvironmentFailed

# Words that profiles and HostFacts.isa use -> the flags of /proc/cpuinfo that must all be there.
_X86_FLAGS: Mapping[str, frozenset[str]] = {
    word: frozenset({word})
    for word in (
        *("avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8"),
        *("avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    )
}
_ARM_FLAGS: Mapping[str, frozenset[str]] = {
    "neon": frozenset({"asimd"}),
    "fp16": frozenset({"fphp", "asimdhp"}),
    "dotprod": frozenset({"asimddp"}),
    "i8mm": frozenset({"i8mm"}),
    "bf16": frozenset({"bf16"}),
    "sve": frozenset({"sve"}),
    "sve2": frozenset({"sve2"}),
}
ISA = (*_ARM_FLAGS, *_X86_FLAGS)

# What `sysctl` prints as 1 on macOS; Intel Macs list their features in machdep.cpu.leaf7_features instead.
_SYSCTL_FLAGS: Mapping[str, str] = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
}

# https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-isprocessorfeaturepresent
_WINDOWS_FEATURES: Mapping[str, int] = {"neon": 19, "avx2": 40, "avx512f": 41, "dotprod": 43}


@dataclass(frozen=True)
class HostFacts:
    """This machine, as far as it tells.

    `system` is linux, android, macos or windows; `arch` is x86_64, arm64 or what it calls itself.
    `isa` holds the words of `ISA` that every core has, empty when unknown. `cpu_name` is the board on arm64
    Linux where the kernel tells it ("Raspberry Pi 5 Model B"), otherwise the CPU. `cores` are those this
    process may use.
    """

    system: str
    arch: str
    isa: tuple[str, ...]
    cpu_name: str
    cores: int


def host_facts() -> HostFacts:
    """Return what can be found out about this machine; never fails, what is unknown is empty."""
    system, arch = _system(), _arch(platform.machine())
    if system in ("linux", "android"):
        isa, cpu_name = parse_cpuinfo(_read("/proc/cpuinfo"))
        board = _read("/proc/device-tree/model").rstrip("\0\n")
        cpu_name = board or cpu_name
    elif system == "macos":
        isa, cpu_name = parse_sysctl(_sysctl())
    else:
        isa, cpu_name = _windows_features(), platform.processor()
    return HostFacts(system, arch, isa, cpu_name, usable_cores())


def parse_cpuinfo(text: str) -> tuple[tuple[str, ...], str]:
    """Return the instruction sets that all cores share and the name, from the text of /proc/cpuinfo."""
    flag_sets = [set(flags.split()) for flags in re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)]
    shared = set.intersection(*flag_sets) if flag_sets else set()
    isa = tuple(word for word, needed in {**_ARM_FLAGS, **_X86_FLAGS}.items() if needed <= shared)
    names = re.findall(r"^(?:Model|model name|Hardware)\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    # On arm64 the board ("Model") is the last line; on x86 every core repeats the same "model name".
    return isa, names[-1] if names else ""


def parse_sysctl(text: str) -> tuple[tuple[str, ...], str]:
    """Return the instruction sets and the CPU's name from what macOS's `sysctl` prints."""
    facts = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    isa = tuple(word for key, word in _SYSCTL_FLAGS.items() if facts.get(key, "0").strip() == "1")
    return isa, facts.get("machdep.cpu.brand_string", "").strip()


def usable_cores() -> int:
    """Return how many cores this process may keep busy, by affinity and the cgroup's quota; at least 1."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
        quota = cgroup_quota(_read("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
        cores = min(cores, int(quota)) if quota is not None else cores
    return max(1, cores)


def cgroup_quota(own_cgroup: str, root: Path) -> float | None:
    """Return the CPUs that the cgroup (version 2 or 1) and its parents allow, None when there is no limit.

    `own_cgroup` is the text of /proc/self/cgroup; `root` is where the cgroups are mounted.
    """
    quotas: list[float | None] = []
    for line in own_cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        folder = top / path.strip("/")
        quotas += [_quota_of(level) for level in (folder, *folder.parents) if level.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had resident so far; 0 when the system does not tell."""
    if sys.platform == "win32":
        return _windows_peak_rss()
    # getrusage on Linux keeps the parent's peak across exec; VmHWM starts anew.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Return the memory that this process has resident now; 0 when the system does not tell."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """Return the hottest thermal zone in degrees Celsius; None where the system has none."""
    found = [_read(path).strip() for path in sorted(root.glob("thermal_zone*/temp"))]
    degrees = [int(text) / 1000 for text in found if re.fullmatch(r"-?\d+", text)]
    return max(degrees, default=None)


def available_memory_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Return the memory that programs can still get; None when the system does not tell."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(path), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def written_bytes(path: Path = Path("/proc/self/io")) -> int | None:
    """Return how many bytes this process has had written to storage so far; None when the system does not tell."""
    found = re.search(r"^write_bytes: (\d+)$", _read(path), re.MULTILINE)
    return int(found.group(1)) if found else None


def battery_ratio(root: Path = Path("/sys/class/power_supply")) -> float | None:
    """Return how full the emptiest battery is, 0 to 1; None where there is none."""
    batteries = [path.parent for path in sorted(root.glob("*/type")) if _read(path).strip() == "Battery"]
    found = [_read(folder / "capacity").strip() for folder in batteries]
    return min((min(int(text), 100) / 100 for text in found if text.isdigit()), default=None)


def throttled_ms(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Return for how long heat has slowed the processor since the system began; None where it does not tell."""
    found = [_read(path).strip() for path in root.glob("cpu*/thermal_throttle/core_throttle_total_time_ms")]
    return max((int(text) for text in found if text.isdigit()), default=None)


def is_capped(root: Path = Path("/sys/devices/system/cpu/cpufreq")) -> bool:
    """Say whether a processor may not run at its full clock now: what boards do when they are hot or short of power."""
    for policy in root.glob("policy*"):
        most, full = (_read(policy / name).strip() for name in ("scaling_max_freq", "cpuinfo_max_freq"))
        if most.isdigit() and full.isdigit() and int(most) < int(full):
            return True
    return False


def notify_service(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager READY=1, WATCHDOG=1 or STOPPING=1 (sd_notify(3)); nothing where none listens."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(state.encode(), name)


def boot_id() -> str:
    """Return what changes with each start of the system, "" where there is no such thing: after it nothing unsynced is
    left of a file.
    """
    return _read("/proc/sys/kernel/random/boot_id").strip()


def has_gpu() -> bool:
    """Return False only where it is certain that there is no GPU: Linux without any render device."""
    if _system() != "linux":
        return True
    return any(Path("/dev/dri").glob("renderD*")) or any(Path("/dev").glob("nvidia[0-9]*"))


def fsync_dir(path: Path) -> None:
    """Make renames in the folder `path` durable; does nothing on Windows, which has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some network and FUSE file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return edgert's private cache folder, made with mode 0700 when absent.

    `$EDGERT_CACHE`, else the system's place for caches. EnvironmentFailed when it cannot be made, or when
    somebody else could write into it.
    """
    path = _cache_path(environ)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as exc:
        raise EnvironmentFailed(f"cannot make the cache folder {path}: {exc.strerror}", _CACHE_REMEDY) from exc
    if sys.platform != "win32":
        if status.st_uid != os.geteuid():
            message = f"the cache folder {path} belongs to user {status.st_uid}, not to this one ({os.geteuid()})"
            raise EnvironmentFailed(message, _CACHE_REMEDY)
        if status.st_mode & 0o022:
            message = f"the cache folder {path} can be written by others (mode {status.st_mode & 0o777:04o})"
            raise EnvironmentFailed(message, f"chmod 700 {path}, or {_CACHE_REMEDY}")
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made when absent, left behind); waits for other holders.

    Holds between processes and between threads; the system releases it when the process dies.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        remedy = "check the folder's permissions and the free space"
        raise EnvironmentFailed(f"cannot open the lock file {path}: {exc.strerror}", remedy) from exc
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


_CACHE_REMEDY = "set EDGERT_CACHE to a folder of your own"


def _system() -> str:
    if hasattr(sys, "getandroidapilevel"):
        return "android"
    name = platform.system().lower()
    return "macos" if name == "darwin" else name


def _arch(machine: str) -> str:
    name = machine.lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def _read(path: str | Path) -> str:
    """Return the text of a file that the kernel provides, empty when it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _quota_of(folder: Path) -> float | None:
    text = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    found = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", text)
    return int(found.group(1)) / int(found.group(2)) if found and int(found.group(2)) else None


def _sysctl() -> str:
    import subprocess

    command = ["/usr/sbin/sysctl", "hw.optional", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _cache_path(environ: Mapping[str, str]) -> Path:
    if environ.get("EDGERT_CACHE"):
        return Path(environ["EDGERT_CACHE"]).expanduser().absolute()
    try:
        home = Path.home()
    except RuntimeError as exc:
        raise EnvironmentFailed("this user has no home folder to keep a cache in", _CACHE_REMEDY) from exc
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "edgert" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "edgert"
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says that a relative path is to be ignored.
    return (configured if configured.is_absolute() else home / ".cache") / "edgert"


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt

        while True:
            try:
                return msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            except OSError as exc:
                if exc.errno != errno.EDEADLK:  # LK_LOCK gives up with this after ten seconds
                    raise

    def _windows_features() -> tuple[str, ...]:
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return tuple(word for word, number in _WINDOWS_FEATURES.items() if present(number))

    def _windows_peak_rss() -> int:
        import ctypes
        from ctypes import wintypes

        class Counters(ctypes.Structure):
            """PROCESS_MEMORY_COUNTERS of psapi.h."""

            _fields_ = (
                ("cb", wintypes.DWORD),
                ("PageFaultCount", wintypes.DWORD),
                *((name, ctypes.c_size_t) for name in ("PeakWorkingSetSize", "WorkingSetSize", "q1", "q2")),
                *((name, ctypes.c_size_t) for name in ("q3", "q4", "PagefileUsage", "PeakPagefileUsage")),
            )

        counters = Counters()
        counters.cb = ctypes.sizeof(counters)
        process = wintypes.HANDLE(ctypes.windll.kernel32.GetCurrentProcess())
        done = ctypes.windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
        return int(counters.PeakWorkingSetSize) if done else 0

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _windows_features() -> tuple[str, ...]:
        return ()

    def _windows_peak_rss() -> int:
        return 0
