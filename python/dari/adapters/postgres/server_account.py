"""The system user that runs the embedded server, and how a program comes to run as that user.

PostgreSQL refuses to run as root. Where we are root it runs as whoever owns the data already, or as `SYSTEM_USER`.
That user must reach the programs and the data, and below a closed folder (a checkout in the 0700 home of root) it does
not. Nothing of ours may change the modes of such folders, so then, and only then, the server keeps one Linux
capability, as an ambient one (capabilities(7)):

    CAP_DAC_READ_SEARCH   passes through every folder and reads every file
    CAP_DAC_OVERRIDE      the same, and writes every file; taken where the first cannot be had, as in Docker, which
                          gives root this one and not the other

*What that costs.* Whoever takes the server over, by a hole in PostgreSQL or as its superuser, reads what root reads,
and with the second writes it too. Without a capability he would be a user who owns nothing else. Against that stands:
the socket lets nobody in but root and the server's user, the service's login user may neither read nor write files,
and the server opens no port. An installation that wants the wall runs dari as an ordinary user, or keeps it below
folders that everybody may pass through, such as /opt and /var/lib: no capability is kept there.

PostgreSQL itself looks only at its effective user id, which is not 0.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

SYSTEM_USER = "pgserver"
"""Runs the server where dari itself is root. The name is the wheel's own, so that a machine has one such user."""

_PROBE_TIMEOUT_S = 30.0

_LAUNCHER = """\
import ctypes, os, signal, sys
parent, uid, gid, capability = map(int, sys.argv[1:5])
libc = ctypes.CDLL(None, use_errno=True)
def check(name, failed):
    if failed:
        raise OSError(ctypes.get_errno(), name)
def prctl(*values):
    check("prctl", libc.prctl(*map(ctypes.c_ulong, (*values, 0, 0, 0)[:5])))
PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 4
if capability >= 0:
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
if os.geteuid() != uid:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if capability >= 0:
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    check("capset", libc.capset(header, effective_permitted_inheritable))
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() != parent:
    sys.exit("dari ended while it started PostgreSQL")
os.umask(0o077)
os.chdir(sys.argv[5])
os.execv(sys.argv[6], sys.argv[6:])
"""
"""Becomes the program. It imports nothing but the standard library, and starts as root where dari is root: the
interpreter may lie where the server's user cannot read.

SECBIT_NO_SETUID_FIXUP does two things: the change of user takes no capability away, so that all but one are taken by
capset after it; and access(2), with which PostgreSQL looks for its programs, counts the one that is left.

The order matters: a change of user clears the request for a signal at the parent's death (prctl(2)). The request
outlives execve, since an ambient capability, unlike one of the file, raises nothing there."""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot start; the message says what to do. Shown by the command line at start."""


class Capability(IntEnum):
    """What lets the server reach its files below closed folders; the numbers are linux/capability.h's."""

    DAC_READ_SEARCH = 2
    DAC_OVERRIDE = 1


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that runs the server, ours or another one where we are root, and the capability that it keeps."""

    uid: int
    gid: int
    capability: Capability | None = None

    def __str__(self) -> str:
        try:
            return f"user {pwd.getpwuid(self.uid).pw_name}"
        except KeyError:
            return f"user id {self.uid}"

    @property
    def is_other(self) -> bool:
        """Whether it is not our own."""
        return self.uid != os.geteuid()

    def give(self, path: Path) -> None:
        """Make the account the owner of `path`."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def command(self, program: Sequence[str], folder: Path) -> list[str]:
        """The command that runs `program`, an absolute path and its arguments, as the account and in `folder`.

        It gets SIGINT when the thread that starts it ends.
        """
        numbers = (os.getpid(), self.uid, self.gid, -1 if self.capability is None else int(self.capability))
        return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, numbers), str(folder), *program]

    def may_enter(self, folder: Path) -> bool:
        """Whether the mode of `folder` lets the account pass through it."""
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def choose_account(cluster: Path, program: Path, data_dir: Path) -> Account:
    """Who runs `program` over `cluster`, which need not be there yet; it reaches both, and `data_dir`.

    Nothing is made but the system user, and nothing changed but the mode of `data_dir`, which is ours: others may pass
    through it. Raises EmbeddedPostgresError, which names the closed folder where there is one.
    """
    account = _owner_of(cluster)
    if not account.is_other:
        return account
    data_dir.chmod(data_dir.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    folders = [folder for path in (program, data_dir) for folder in path.resolve().parents]
    closed = next((folder for folder in folders if not account.may_enter(folder)), None)
    if closed is None:
        return account
    # A mode is not the whole truth: there are access lists, and machines that let no capability through. So try.
    for capability in (None, *Capability):
        candidate = replace(account, capability=capability)
        if _reaches(candidate, program, data_dir):
            return candidate
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root, so it runs as {account}, who may not enter {closed} and so does not reach "
        f"{program} and {data_dir}; nor has this process CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE to hand on. Run dari "
        "as an ordinary user; or set DARI_DATA_DIR, and install dari, where everyone may pass through, such as below "
        f"/var/lib and /opt; or run: chmod o+x '{closed}'; or set DARI_DATABASE_DSN to a PostgreSQL server."
    )


def clean_environment() -> dict[str, str]:
    """No PG* variable may change what we ask for, and no secret of dari's may reach another user's process."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _owner_of(cluster: Path) -> Account:
    """Our own user; where we are root, the owner of the data, or SYSTEM_USER, which is made when it is missing."""
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        own = Account(os.geteuid(), os.getegid())
        if owner and owner.st_uid != own.uid:
            raise EmbeddedPostgresError(
                f"{cluster} belongs to {Account(owner.st_uid, owner.st_gid)}, and PostgreSQL runs only as the owner "
                "of its data. Run dari as that user, or set DARI_DATA_DIR to a folder of your own."
            )
        return own
    if owner and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    entry = _make_system_user()
    return Account(entry.pw_uid, entry.pw_gid)


def _make_system_user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program:
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([program, "--system", "--no-create-home", SYSTEM_USER], check=True, capture_output=True)
    try:
        # Another process may have been first: what counts is that the user is there.
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made with useradd. "
            f"Make it, or run dari as an ordinary user, or set DARI_DATABASE_DSN to a PostgreSQL server."
        ) from None


def _reaches(account: Account, program: Path, data_dir: Path) -> bool:
    """Whether the account can change into `data_dir` and run `program` from there."""
    result = subprocess.run(
        account.command([str(program), "--version"], data_dir),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PROBE_TIMEOUT_S,
        check=False,
    )
    return result.returncode == 0
