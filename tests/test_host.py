"""What this machine is, the cache folder, and the lock."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgert.errors import EnvironmentFailed
from edgert.host import (
    ISA,
    available_memory_bytes,
    battery_ratio,
    boot_id,
    cache_dir,
    cgroup_quota,
    fsync_dir,
    has_gpu,
    host_facts,
    is_capped,
    locked,
    notify_service,
    parse_cpuinfo,
    parse_sysctl,
    peak_rss_bytes,
    rss_bytes,
    temperature_c,
    throttled_ms,
    usable_cores,
    written_bytes,
)

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")

X86 = """processor\t: {number}
model\t\t: 17
model name\t: AMD EPYC 9004
flags\t\t: fpu sse4_2 fma f16c avx2 avx512f {flags}

"""

RASPBERRY = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_host_facts_of_this_machine_are_plausible() -> None:
    """This machine has a known system, cores, and only instruction sets that profiles can name."""
    facts = host_facts()
    assert facts.system in ("linux", "android", "macos", "windows")
    assert facts.arch
    assert set(facts.isa) <= set(ISA)
    assert 1 <= facts.cores <= (os.cpu_count() or 1)


def test_parse_cpuinfo_of_x86_keeps_what_all_cores_have() -> None:
    """A flag that one core lacks is not a fact about the machine."""
    text = X86.format(number=0, flags="avx512_vnni") + X86.format(number=1, flags="")
    assert parse_cpuinfo(text) == (("avx2", "fma", "f16c", "avx512f"), "AMD EPYC 9004")
    both = X86.format(number=0, flags="avx512_vnni") + X86.format(number=1, flags="avx512_vnni")
    assert "avx512_vnni" in parse_cpuinfo(both)[0]


def test_parse_cpuinfo_of_a_raspberry_pi_names_the_board() -> None:
    """On arm64 the kernel's words become the profile's words, and the board is the name."""
    assert parse_cpuinfo(RASPBERRY) == (("neon", "fp16", "dotprod"), "Raspberry Pi 5 Model B Rev 1.0")


@pytest.mark.parametrize("text", ["", "\0\0", "flags", "Features\t:\nModel :"])
def test_parse_cpuinfo_of_odd_text_is_empty(text: str) -> None:
    """A kernel that tells nothing leads to no facts, never to an error."""
    assert parse_cpuinfo(text) == ((), "")


def test_parse_sysctl_of_a_mac_reads_features_and_name() -> None:
    """Features that macOS prints as 1 count, those at 0 do not."""
    text = "hw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.arm.FEAT_DotProd: 1\n"
    assert parse_sysctl(f"{text}machdep.cpu.brand_string: Apple M1\n") == (("neon", "dotprod"), "Apple M1")
    assert parse_sysctl("") == ((), "")


def test_cgroup_quota_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    """The limit of a parent group holds for its children; "max" is no limit."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert cgroup_quota("0::/outer/inner\n", tmp_path) is None
    (tmp_path / "outer" / "cpu.max").write_text("150000 100000\n")
    assert cgroup_quota("0::/outer/inner\n", tmp_path) == 1.5
    (inner / "cpu.max").write_text("50000 100000\n")
    assert cgroup_quota("0::/outer/inner\n", tmp_path) == 0.5


def test_cgroup_quota_of_version_1_is_read(tmp_path: Path) -> None:
    """Old kernels split quota and period over two files, and -1 is no limit."""
    folder = tmp_path / "cpu,cpuacct" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("200000\n")
    own = "3:memory:/docker\n2:cpu,cpuacct:/docker\n"
    assert cgroup_quota(own, tmp_path) == 2.0
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(own, tmp_path) is None
    assert cgroup_quota("", tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_usable_cores_respects_affinity() -> None:
    """A process that is pinned to one core may keep one core busy."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from edgert.host import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert usable_cores() >= 1


def test_peak_rss_grows_by_what_is_allocated() -> None:
    """The peak rises with memory that is really used, and stays after it is freed."""
    before = peak_rss_bytes()
    data = bytearray(before + 50_000_000)
    data[::4096] = b"\1" * len(data[::4096])
    after = peak_rss_bytes()
    assert after - before > 40_000_000
    del data
    assert peak_rss_bytes() > after - 1_000_000  # the kernel's count is exact to some pages per thread


@posix_only
def test_peak_rss_of_a_child_does_not_start_at_the_parents() -> None:
    """A small process that a large one starts reports its own peak."""
    size = 100_000_000
    code = "from edgert.host import peak_rss_bytes; print(peak_rss_bytes())"
    parent = f"import subprocess, sys; d = b'1' * {size}; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 1_000_000 < int(done.stdout) < size


def test_has_gpu_on_linux_is_what_the_device_files_say() -> None:
    """Without a render node and without an NVIDIA device there is no GPU; other systems are not judged."""
    if sys.platform != "linux":
        assert has_gpu()
        return
    names = [*Path("/dev").glob("dri/renderD*"), *Path("/dev").glob("nvidia[0-9]*")]
    assert has_gpu() == bool(names)


def test_fsync_dir_of_a_folder_succeeds_and_of_nothing_fails(tmp_path: Path) -> None:
    """A folder can be made durable; a folder that is not there is the caller's error."""
    fsync_dir(tmp_path)
    if sys.platform != "win32":
        with pytest.raises(FileNotFoundError):
            fsync_dir(tmp_path / "absent")


@posix_only
def test_cache_dir_is_made_private(tmp_path: Path) -> None:
    """A new cache folder, with its parents, belongs to this user alone."""
    wanted = tmp_path / "a" / "b"
    assert cache_dir({"EDGERT_CACHE": str(wanted)}) == wanted
    assert wanted.stat().st_mode & 0o777 == 0o700
    assert cache_dir({"EDGERT_CACHE": str(wanted)}) == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="XDG folders")
def test_cache_dir_follows_xdg(tmp_path: Path) -> None:
    """XDG_CACHE_HOME decides when it is absolute; EDGERT_CACHE comes before it."""
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "edgert"
    mine = tmp_path / "mine"
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path), "EDGERT_CACHE": str(mine)}) == mine


@posix_only
def test_cache_dir_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Verified bundles are not kept where somebody else could change them; the remedy is the command."""
    tmp_path.chmod(0o777)
    with pytest.raises(EnvironmentFailed, match="written by others") as caught:
        cache_dir({"EDGERT_CACHE": str(tmp_path)})
    assert f"chmod 700 {tmp_path}" in caught.value.remedy
    assert tmp_path.stat().st_mode & 0o777 == 0o777


def test_cache_dir_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    """A file in the way is an environment error that says which variable to set."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailed) as caught:
        cache_dir({"EDGERT_CACHE": str(tmp_path / "file" / "cache")})
    assert "EDGERT_CACHE" in caught.value.remedy
    assert caught.value.exit_code == 4


def test_locked_keeps_threads_apart(tmp_path: Path) -> None:
    """Two threads never hold the lock at once."""
    inside: list[int] = []
    worst: list[int] = []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock"):
                inside.append(1)
                worst.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 60
    assert max(worst) == 1


def test_locked_waits_for_another_process_and_survives_its_death(tmp_path: Path) -> None:
    """The lock of a process that is killed is free again, and not before."""
    lock, started = tmp_path / "lock", tmp_path / "started"
    code = (
        "import sys, time; from pathlib import Path; from edgert.host import locked\n"
        "with locked(Path(sys.argv[1])):\n    Path(sys.argv[2]).write_text('x'); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock), str(started)])
    while not started.exists():
        assert holder.poll() is None
        time.sleep(0.01)
    taken = threading.Event()

    def take() -> None:
        with locked(lock):
            taken.set()

    waiter = threading.Thread(target=take)
    waiter.start()
    assert not taken.wait(0.3)
    holder.kill()
    holder.wait()
    assert taken.wait(10)
    waiter.join()


def test_locked_in_a_missing_folder_is_an_environment_error(tmp_path: Path) -> None:
    """A lock that cannot be made is named."""
    with pytest.raises(EnvironmentFailed, match="cannot open the lock file"), locked(tmp_path / "absent" / "lock"):
        pass


def test_rss_bytes_grows_with_what_is_held():
    """Fifty megabytes more are seen, within ten."""
    before = rss_bytes()
    held = bytearray(os.urandom(1)) * 50_000_000
    grown = rss_bytes() - before
    assert len(held) == 50_000_000
    assert before == 0 or 40_000_000 < grown < 70_000_000


def test_temperature_is_the_hottest_zone_and_none_without_any(tmp_path):
    """Thousandths of a degree; what is no number is passed over."""
    assert temperature_c(tmp_path) is None
    for name, text in (("0", "41500\n"), ("1", "63000\n"), ("2", "broken\n"), ("3", "-5000\n")):
        (tmp_path / f"thermal_zone{name}").mkdir()
        (tmp_path / f"thermal_zone{name}" / "temp").write_text(text)
    assert temperature_c(tmp_path) == 63.0


def test_memory_that_is_left_and_bytes_that_were_written_are_read(tmp_path):
    """As Linux writes them; None where it writes nothing of the kind."""
    (tmp_path / "meminfo").write_text("MemTotal:  16000 kB\nMemFree:  1 kB\nMemAvailable:    9000 kB\n")
    (tmp_path / "io").write_text("rchar: 5\nwchar: 6\nread_bytes: 7\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n")
    assert available_memory_bytes(tmp_path / "meminfo") == 9000 * 1024
    assert written_bytes(tmp_path / "io") == 4096
    assert available_memory_bytes(tmp_path / "none") is None
    assert written_bytes(tmp_path / "none") is None


def test_battery_is_the_emptiest_one_and_a_charger_is_none(tmp_path):
    """A tablet with two, and its mains; a board has none."""
    assert battery_ratio(tmp_path) is None
    for name, kind, capacity in (("AC", "Mains", ""), ("BAT0", "Battery", "80\n"), ("BAT1", "Battery", "35\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(kind + "\n")
        (tmp_path / name / "capacity").write_text(capacity)
    assert battery_ratio(tmp_path) == 0.35


def test_throttling_is_read_where_the_kernel_tells(tmp_path):
    """Milliseconds of the core that was slowed longest; a clock that is capped now."""
    assert throttled_ms(tmp_path) is None
    assert not is_capped(tmp_path)
    for core, text in (("cpu0", "120\n"), ("cpu1", "350\n")):
        (tmp_path / core / "thermal_throttle").mkdir(parents=True)
        (tmp_path / core / "thermal_throttle" / "core_throttle_total_time_ms").write_text(text)
    assert throttled_ms(tmp_path) == 350
    for policy, most in (("policy0", "1800000"), ("policy4", "2400000")):
        (tmp_path / policy).mkdir()
        (tmp_path / policy / "cpuinfo_max_freq").write_text("2400000\n")
        (tmp_path / policy / "scaling_max_freq").write_text(most + "\n")
    assert is_capped(tmp_path)
    (tmp_path / "policy0" / "scaling_max_freq").write_text("2400000\n")
    assert not is_capped(tmp_path)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_notify_service_tells_the_socket_it_was_given(tmp_path):
    """As systemd listens; without one, and with one that is gone, nothing happens."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        notify_service("READY=1", {"NOTIFY_SOCKET": path})
        assert listening.recv(100) == b"READY=1"
    notify_service("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notify_service("READY=1", {})


def test_boot_id_is_the_same_until_the_system_starts_anew():
    """It is asked twice; where the system has none it is empty twice."""
    assert boot_id() == boot_id()
