"""The set-up says in words what is wrong, and is quick the second time."""

import pytest

from book._tools import setup_env


def test_an_old_python_is_told():
    with pytest.raises(SystemExit, match=r"Python 3\.10 is too old: 3\.11 or newer"):
        setup_env.check_python((3, 10, 13))
    setup_env.check_python((3, 11, 0))


def test_a_full_disk_is_told_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(setup_env, "free", lambda path: 12)
    with pytest.raises(SystemExit, match="disk is nearly full: 12 MB are free"):
        setup_env.main()


@pytest.mark.parametrize(
    "said, told",
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        (
            "WARNING: Retrying (...) NewConnectionError('<...>: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')"
            "\nERROR: Could not find a version that satisfies the requirement setuptools (from versions: none)",
            "cannot be reached",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)",
            "no build for Python",
        ),
        (
            "The virtual environment was not created successfully because ensurepip is not available.",
            "virtual environments",
        ),
        ("anything else", "its own words say why"),
    ],
)
def test_a_failed_install_is_explained(said, told, tmp_path, monkeypatch):
    """By the words that pip says, as a real command that fails."""
    with pytest.raises(SystemExit, match=told):
        setup_env.run(
            [setup_env.sys.executable, "-c", f"import sys; sys.exit({said!r})"]
        )


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Set-up in a folder of its own, with its commands recorded and not run."""
    ran = []
    (tmp_path / ".venv").mkdir()
    (tmp_path / "pyproject.toml").write_text("1")
    for name, value in {
        "ROOT": str(tmp_path),
        "VENV": str(tmp_path / ".venv"),
        "STAMP": str(tmp_path / ".venv" / ".stamp"),
        "run": lambda command: ran.append("venv" if "venv" in command else "pip"),
        "free": lambda path: 10**6,
    }.items():
        monkeypatch.setattr(setup_env, name, value)
    return ran


def test_set_up_once(commands, tmp_path, monkeypatch):
    setup_env.main()
    assert commands == ["venv", "pip"]
    setup_env.main()
    assert commands == ["venv", "pip"], "nothing changed, and yet something ran"
    (tmp_path / "pyproject.toml").write_text("2")
    setup_env.main()
    assert commands == ["venv", "pip", "pip"], (
        "another pyproject.toml: packages anew, in the same .venv"
    )
    monkeypatch.setattr(setup_env.sys, "version", "3.99")
    setup_env.main()
    assert commands == ["venv", "pip", "pip", "venv", "pip"], (
        "another Python: .venv anew"
    )


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["instal"], ["lock", "torch"]])
def test_what_it_does_not_know_changes_nothing(commands, words, capsys, monkeypatch):
    monkeypatch.setattr(setup_env, "lock", lambda held: commands.append("lock"))
    with pytest.raises(SystemExit) as ended:
        setup_env.main(*words)
    assert not commands and "set up; returns at once" in capsys.readouterr().out
    assert ended.value.code == (0 if words[0].startswith("-") else 2)


def test_the_environment_of_another_folder_is_not_emptied(commands, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "python").touch()
    (tmp_path / ".venv").rmdir()
    (tmp_path / ".venv").symlink_to(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"(?s)is a link to .*other.*Remove the link"):
        setup_env.main()
    assert not commands and [f.name for f in (tmp_path / "other").iterdir()] == [
        "python"
    ]


def test_an_interrupted_install_is_taken_up_again(commands, monkeypatch):
    def interrupted(command):
        commands.append("interrupted")
        raise KeyboardInterrupt

    run = setup_env.run
    monkeypatch.setattr(
        setup_env,
        "run",
        lambda command: run(command) if "venv" in command else interrupted(command),
    )
    with pytest.raises(KeyboardInterrupt):
        setup_env.main()
    monkeypatch.setattr(setup_env, "run", run)
    setup_env.main()
    assert commands == ["venv", "interrupted", "pip"]
