"""Make .venv and install into it what constraints.txt pins: the first thing that `make book` and `make test` do.

    python3 book/_tools/setup_env.py         set up; returns at once when nothing has changed since
    python3 book/_tools/setup_env.py lock    resolve pyproject.toml anew and write constraints.txt
    python3 book/_tools/setup_env.py newest  the same, and the newest torch as well

Standard library only. The syntax is that of Python 2.7 as well, so that an old Python gets as far as the message meant for it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(
    VENV, ".stamp"
)  # line 1: this Python, this folder; line 2, once all is installed: what was installed
OLDEST = (3, 11)
VERBS = ("setup", "lock", "newest")
ROOM_TO_INSTALL = 2500  # MB: 1,500 installed with the CPU's torch, the rest while wheels are unpacked; CUDA's torch needs 7,000
ROOM_TO_BUILD = 200  # MB: the site and the caches of a test run
HELD = [
    "torch==2.13.0"
]  # `lock` keeps these: the stored outputs and the published numbers were made with this torch

# What a failed command said -> what to do about it. The first that matches is told.
REASONS = [
    (r"No space left on device|Errno 28|Disk quota exceeded", "disk"),
    (
        r"name resolution|Network is unreachable|NewConnectionError|ConnectTimeout|Read timed out|ProxyError|Connection (refused|reset)|SSLError",
        "network",
    ),
    (r"ensurepip is not available|No module named '?(ensurepip|venv)", "venv"),
    (
        r"No matching distribution|requires a different Python|Could not find a version",
        "wheel",
    ),
]


def main(verb="setup", *more):
    check_python(sys.version_info)
    if more or verb not in VERBS:  # --help installs nothing
        print(__doc__.strip())
        sys.exit(0 if verb in ("-h", "--help") else 2)
    if verb in ("lock", "newest"):
        return lock(HELD if verb == "lock" else [])
    check_room(ROOM_TO_BUILD, "to build and to test")
    made, key = fingerprints()
    stamp = read(STAMP).splitlines()
    if stamp == [made, key]:
        return
    if os.path.islink(VENV):
        fail(
            ".venv is a link to %s, which belongs to another folder: to make it anew "
            "would empty that one.\nRemove the link and run the same command again."
            % os.path.realpath(VENV)
        )
    check_room(ROOM_TO_INSTALL, "to install the packages")
    if (stamp[:1] != [made]) if stamp else not usable():
        say("making .venv with Python %d.%d" % sys.version_info[:2])
        run([sys.executable, "-m", "venv", "--clear", VENV])
    write(STAMP, made + "\n")
    say(
        "installing into .venv what constraints.txt pins (the first time some minutes, most of them for torch)"
    )
    run(
        [
            python(),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "-c",
            "constraints.txt",
            "-e",
            ".[book,test]",
        ]
    )
    write(STAMP, made + "\n" + key + "\n")
    say("done")


def lock(held):
    """constraints.txt: the newest set that pyproject.toml allows, with some held. Nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        run(
            [
                python(),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--dry-run",
                "--ignore-installed",
                "--report",
                report,
                ".[book,test]",
            ]
            + held
        )
        found = [item["metadata"] for item in json.loads(read(report))["install"]]
    pins = sorted(
        "%s==%s" % (m["name"].lower(), m["version"].split("+")[0])
        for m in found
        if m["name"] != "ddpm-core"
    )
    head = (
        "# Exactly what `make book` and `make test` install; written by `make lock`, not by hand.\n"
        "# Versions without their local part (+cpu, +cu130): each system takes its own build of torch,\n"
        "# and torch pins the CUDA libraries that it brings along where it does.\n"
    )
    write(os.path.join(ROOT, "constraints.txt"), head + "\n".join(pins) + "\n")
    say("constraints.txt: %d packages" % len(pins))


def check_python(version):
    if version < OLDEST:
        fail(
            "Python %d.%d is too old: %d.%d or newer is needed.\nInstall one, or name it:  make PYTHON=/path/to/python%d.%d book"
            % (version[0], version[1], OLDEST[0], OLDEST[1], OLDEST[0], OLDEST[1])
        )


def check_room(needed, purpose):
    if free(ROOT) < needed:
        fail(
            "the disk is nearly full: %d MB are free at %s and %d MB are needed %s.\nMake room and run the same command again."
            % (free(ROOT), ROOT, needed, purpose)
        )


def explain(said):
    """The last words of a failed command -> one readable reason."""
    reason = next((name for pattern, name in REASONS if re.search(pattern, said)), None)
    if reason == "disk":
        places = sorted({ROOT, tempfile.gettempdir(), os.path.expanduser("~")})
        return (
            "the disk is full. Free: %s.\nMake room (pip unpacks in the temporary folder; TMPDIR moves it) and run the same command again."
            % (", ".join("%d MB at %s" % (free(p), p) for p in places))
        )
    if reason == "network":
        return "the package index cannot be reached. Packages are downloaded once; after that no network is needed.\nRun the same command again when there is one."
    if reason == "venv":
        return (
            "this Python cannot make virtual environments. On Debian and Ubuntu:  apt install python%d.%d-venv"
            % sys.version_info[:2]
        )
    if reason == "wheel":
        return (
            "a package has no build for Python %d.%d on this system (see above); 3.11, 3.12 and 3.13 are tested.\nName another:  make PYTHON=python3.12 book"
            % sys.version_info[:2]
        )
    return "the command above failed; its own words say why. What was installed is kept: run the same command again to go on."


def run(command):
    """Run in ROOT, showing everything; end with a readable reason if it fails."""
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            errors="replace",
        )
        said = []
        for line in process.stderr:
            sys.stderr.write(line)
            said = said[-200:] + [line]
        if process.wait() == 0:
            return
        # venv prints the reason of a failed ensurepip on its standard output: a missing module is asked for directly.
        if "venv" in command and subprocess.call(
            [sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL
        ):
            said.append("No module named ensurepip")
        fail(explain("".join(said)))
    except OSError as error:
        fail(
            explain(str(error)) if error.errno == 28 else "%s: %s" % (command[0], error)
        )


def usable():
    """Is there a .venv, not made by this script, that will do? (A half-made one has no pip yet.)"""
    try:
        said = subprocess.check_output(
            [python(), "-c", "import sys, pip; print(sys.version)"],
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return said.decode().strip() == sys.version.strip()


def fingerprints():
    made = hashlib.sha256(
        (sys.version + ROOT).encode()
    ).hexdigest()  # a folder that was moved, or another Python: .venv anew
    wanted = "".join(
        read(os.path.join(ROOT, name)) for name in ("pyproject.toml", "constraints.txt")
    )
    return made, hashlib.sha256(wanted.encode()).hexdigest()


def python():
    return os.path.join(VENV, "bin", "python")


def free(path):
    return shutil.disk_usage(path).free // 10**6


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        return file.read().decode("utf-8")


def write(path, text):
    try:
        with open(path, "wb") as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        fail(explain("Errno %d" % error.errno))


def say(text):
    print("set-up: " + text)
    sys.stdout.flush()


def fail(text):
    sys.stdout.flush()
    sys.exit("\nset-up: " + text)


if __name__ == "__main__":
    main(*sys.argv[1:])
