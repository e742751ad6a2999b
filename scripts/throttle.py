"""Limit a running process to a share of one core, for experiments.

    with Throttle(pid, 0.1) as throttle:
        print(throttle.used)

Uses the quota of a CPU cgroup if this system allows one (version 2, `cpu.max`, or version 1, `cpu.cfs_quota_us`). Otherwise a
thread sends SIGSTOP and SIGCONT in turns. The two differ for a process that is mostly idle: a quota lets it work until it has
used its share of the period, while signals always stop it for the rest of every period. The limit applies to all threads of the
process together, including threads that it starts meanwhile. At the end of the context the process is unlimited again, and the
cgroup is removed.

Start the process in its own process group (`process_group=0` of subprocess). Then, if this program is killed while the process is
stopped, the kernel continues it with SIGCONT and SIGHUP instead of leaving it stopped.
"""

import errno
import itertools
import os
import pathlib
import signal
import threading
import time

# The kernel accepts quotas of one millisecond or more.
QUOTA_MIN_US = 1_000
_numbers = itertools.count(1)


class Throttle:
    """Limits process `pid` to `share` of one core, over periods of `period` seconds.

    `method` is "auto", "cgroup" (fails where there is none) or "signals". Within the context, `used` names the method in use.
    """

    def __init__(self, pid, share, period=0.1, method="auto"):
        if not 0 < share <= 1:
            raise ValueError(f"a share of one core is above 0 and at most 1, not {share}")
        if method not in ("auto", "cgroup", "signals"):
            raise ValueError(f"no such method: {method}")
        self.pid, self.share, self.period, self.method = pid, share, period, method
        self.used = None
        self._holder = None

    def __enter__(self):
        reasons = []
        if self.method != "signals":
            for kind in (_QuotaV2, _QuotaV1):
                try:
                    self._holder = kind(self.pid, self.share, self.period)
                    break
                except OSError as error:
                    reasons.append(f"{kind.name}: {error}")
        if self._holder is None:
            if self.method == "cgroup":
                raise OSError("no CPU cgroup can be made: " + "; ".join(reasons))
            self._holder = _Signals(self.pid, self.share, self.period)
        self.used = f"{self._holder.name}, {self.share:g} of a core, period {self.period * 1000:g} ms"
        return self

    def __exit__(self, *_):
        self._holder.release()


class _Quota:
    """A cgroup with only this process. The subclasses know the files of each version."""

    def __init__(self, pid, share, period):
        root = self.root()
        # The process's original group, to restore it later: the last part of the line that names this hierarchy.
        self.pid, self.before = pid, root / self.path_of(pid).lstrip("/")
        self.group = root / f"throttle-{os.getpid()}-{next(_numbers)}"
        self.group.mkdir()
        try:
            period_us = round(period * 1e6)
            self.limit(max(round(share * period_us), QUOTA_MIN_US), period_us)
            _write(self.group / "cgroup.procs", pid)
        except BaseException:
            self.release()
            raise

    def release(self):
        for pid in (self.group / "cgroup.procs").read_text().split():
            try:
                _write(self.before / "cgroup.procs", pid)
            except OSError:
                # The process or its original group no longer exists.
                pass
        # A process that is ending still counts as a member for a moment.
        until = time.monotonic() + 2
        while True:
            try:
                self.group.rmdir()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)


class _QuotaV2(_Quota):
    name = "cgroup v2 cpu.max"

    @staticmethod
    def root():
        root = _mount(lambda kind, options: kind == "cgroup2")
        if "cpu" not in (root / "cgroup.controllers").read_text().split():
            raise OSError("the cpu controller is not in this hierarchy")
        if "cpu" not in (root / "cgroup.subtree_control").read_text().split():
            _write(root / "cgroup.subtree_control", "+cpu")
        return root

    @staticmethod
    def path_of(pid):
        return _path(pid, lambda controllers: controllers == [""])

    def limit(self, quota_us, period_us):
        _write(self.group / "cpu.max", f"{quota_us} {period_us}")


class _QuotaV1(_Quota):
    name = "cgroup v1 cpu.cfs_quota_us"

    @staticmethod
    def root():
        return _mount(lambda kind, options: kind == "cgroup" and "cpu" in options)

    @staticmethod
    def path_of(pid):
        return _path(pid, lambda controllers: "cpu" in controllers)

    def limit(self, quota_us, period_us):
        _write(self.group / "cpu.cfs_period_us", period_us)
        _write(self.group / "cpu.cfs_quota_us", quota_us)


class _Signals:
    """SIGCONT for the share of each period, SIGSTOP for the rest of it."""

    name = "SIGSTOP and SIGCONT"

    def __init__(self, pid, share, period):
        self.pid, self.share, self.period = pid, share, period
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.turns, daemon=True)
        self.thread.start()

    def turns(self):
        try:
            before = self.cpu()
            while not self.ended.is_set():
                os.kill(self.pid, signal.SIGCONT)
                begun = time.monotonic()
                self.ended.wait(self.share * self.period)
                os.kill(self.pid, signal.SIGSTOP)
                # CPU time that a thread used after this reading is in the next reading.
                now = self.cpu()
                ran, used = time.monotonic() - begun, now - before
                before = now
                # Several threads can use more CPU time than wall time; then the process stays stopped for longer.
                self.ended.wait(max(max(ran, used) / self.share - ran, 0))
        except OSError:
            # The process has ended.
            pass

    def cpu(self):
        """CPU seconds of all its threads, from the CPU clock that Linux keeps for every process."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def release(self):
        self.ended.set()
        self.thread.join()
        try:
            os.kill(self.pid, signal.SIGCONT)
        except OSError:
            pass


def _write(path, text):
    # Unbuffered, so that an error of the kernel is raised by this call.
    with open(path, "wb", buffering=0) as file:
        file.write(str(text).encode())


def _mount(wanted):
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if wanted(kind, options.split(",")):
            return pathlib.Path(where)
    raise OSError("not mounted")


def _path(pid, wanted):
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if wanted(controllers.split(",")):
            return path
    raise OSError("not a member of this hierarchy")
