import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pd_lightning.cli import git_state as module
from pd_lightning.cli.git_state import git_state


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit; the working directory is a folder in it."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "trunk")
    (tmp_path / "model.py").write_text("width = 1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.yaml").write_text("lr: 1\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    monkeypatch.chdir(tmp_path / "sub")
    return tmp_path


def test_a_clean_checkout(checkout: Path) -> None:
    state = git_state()
    assert state is not None
    assert (state.commit, state.branch) == (git("rev-parse", "HEAD"), "trunk")
    assert (state.dirty, state.untracked, state.diff, state.diff_is_cut) == (False, [], "", False)


def test_the_diff_brings_back_what_was_there(checkout: Path) -> None:
    """Applied to the commit, also from within, with changes that are staged, and with no newline at the end."""
    (checkout / "model.py").write_text("width = 2\ntoken = tokens[0]")
    (checkout / "sub" / "run.yaml").write_text("lr: 2\n")
    git("add", "run.yaml")
    (checkout / "new é.py").write_text("unsaid = 1\n")
    state = git_state()
    assert state is not None
    assert state.dirty
    assert state.untracked == ["new é.py"]
    assert "unsaid" not in state.diff
    (checkout / "sub" / "state.diff").write_text(state.diff)
    git("reset", "-q", "--hard")
    git("-C", str(checkout), "apply", "sub/state.diff")
    assert (checkout / "model.py").read_text() == "width = 2\ntoken = tokens[0]"
    assert (checkout / "sub" / "run.yaml").read_text() == "lr: 2\n"


def test_secrets_stay_out_of_the_diff(checkout: Path) -> None:
    lines = [
        'api_key = "abcdefgh"',
        "wandb_api_key: 0123456789abcdef",
        '{"password": "correct horse"}',
        "url: https://me:hunter2@host/x",
        "hf_abcdefghijklmnopqrstuv",
    ]
    (checkout / "sub" / "run.yaml").write_text("\n".join([*lines, "eos_token: '</s>'", "num_tokens = 5"]))
    state = git_state()
    assert state is not None
    for secret in ("abcdefgh", "0123456789", "correct", "hunter2", "hf_"):
        assert secret not in state.diff
    assert state.diff.count("***") == 5
    for harmless in ("+eos_token: '</s>'", "+num_tokens = 5", "+api_key = ***"):
        assert harmless in state.diff


def test_a_long_diff_is_cut(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_DIFF", 200)
    (checkout / "model.py").write_text("line\n" * 1000)
    state = git_state()
    assert state is not None
    assert (len(state.diff), state.diff_is_cut) == (200, True)


def test_a_secret_at_the_cut_is_masked_before(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "hf_abcdefghijABCDEFGHIJklmnop"
    (checkout / "model.py").write_text(f"{'x' * 70} {key} {'y' * 70}\n")
    state = git_state()
    assert state is not None
    cut = state.diff.index("***") + 2
    monkeypatch.setattr(module, "LONGEST_DIFF", cut)
    state = git_state()
    assert state is not None
    assert state.diff.endswith("x **")
    assert (len(state.diff), state.diff_is_cut) == (cut, True)


def test_a_large_file_is_only_named(checkout: Path) -> None:
    (checkout / "model.py").write_text("line\n" * 300_000)
    state = git_state()
    assert state is not None
    assert "Binary files a/model.py and b/model.py differ" in state.diff
    assert len(state.diff) < 500


def test_without_a_branch_and_without_a_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("checkout", "-q", "--detach")
    state = git_state()
    assert state is not None
    assert (state.commit, state.branch) == (git("rev-parse", "HEAD"), None)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    git("init", "-q", "-b", "trunk")
    Path("new.py").touch()
    git("add", "new.py")
    state = git_state()
    assert state is not None
    assert (state.commit, state.branch, state.dirty, state.diff) == (None, "trunk", True, "")


def test_what_a_repository_names_is_not_run(checkout: Path) -> None:
    """A checkout may be somebody else's: its configuration and attributes name programs."""
    for setting in ("diff.external", "core.fsmonitor", "diff.evil.textconv", "diff.evil.command", "core.pager"):
        git("config", setting, f"touch '{checkout / 'ran'}'; cat")
    (checkout / ".git" / "info" / "attributes").write_text("* diff=evil\n")
    (checkout / "model.py").write_text("width = 3\n")
    state = git_state()
    assert state is not None
    assert "+width = 3" in state.diff
    assert not (checkout / "ran").exists()


@pytest.mark.parametrize("kind", ["clean", "smudge", "process"])
def test_no_filter_is_run(checkout: Path, kind: str) -> None:
    """Which git runs to compare a file, whatever else it is told."""
    (checkout / ".gitattributes").write_text("*.py filter=My.Filter\n")
    git("add", "-A")
    git("commit", "-qm", "attributes")
    git("config", f"filter.My.Filter.{kind}", f"touch '{checkout / 'ran'}'; cat")
    git("config", "filter.My.Filter.required", "true")
    (checkout / "model.py").write_text("width = 4\n")
    state = git_state()
    assert state is not None
    assert "+width = 4" in state.diff
    assert not (checkout / "ran").exists()
    if kind == "clean":
        git("diff")
        assert (checkout / "ran").exists(), "git by itself runs it"


def test_a_filter_that_cannot_be_switched_off(checkout: Path) -> None:
    """The command line of git has no way to name it."""
    git("config", "filter.a=b.clean", f"touch '{checkout / 'ran'}'; cat")
    (checkout / ".git" / "info" / "attributes").write_text("*.py filter=a=b\n")
    (checkout / "model.py").write_text("width = 5\n")
    assert git_state() is None
    assert not (checkout / "ran").exists()


def test_no_filter_of_a_submodule_is_run(checkout: Path) -> None:
    """Its configuration is its own."""
    git("init", "-q", str(checkout / "inner"))
    inner = ("-C", str(checkout / "inner"))
    (checkout / "inner" / "a.py").write_text("a = 1\n")
    git(*inner, "add", "-A")
    git(*inner, "commit", "-qm", "one")
    git("-C", str(checkout), "-c", "advice.addEmbeddedRepo=false", "add", "inner")
    git("commit", "-qm", "inner")
    git(*inner, "config", "filter.x.clean", f"touch '{checkout / 'ran'}'; cat")
    (checkout / "inner" / ".git" / "info" / "attributes").write_text("*.py filter=x\n")
    (checkout / "inner" / "a.py").write_text("a = 2\n")
    (checkout / "model.py").write_text("width = 6\n")
    state = git_state()
    assert state is not None
    assert "+width = 6" in state.diff
    assert not (checkout / "ran").exists()
    git(*inner, "commit", "-qam", "two")
    state = git_state()
    assert state is not None
    assert "+Subproject commit" in state.diff, "another commit of it is seen"


def test_what_is_missing_is_not_fetched(checkout: Path) -> None:
    """A partial clone would start the program that its configuration names for the other side."""
    blob = git("rev-parse", "HEAD:model.py")
    (checkout / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    git("config", "core.repositoryFormatVersion", "1")
    git("config", "extensions.partialClone", "origin")
    git("config", "remote.origin.url", str(checkout / ".git"))
    git("config", "remote.origin.promisor", "true")
    git("config", "remote.origin.uploadPack", f"touch '{checkout / 'ran'}'; git-upload-pack")
    git("config", "protocol.file.allow", "always")
    (checkout / "model.py").write_text("width = 7\n")
    state = git_state()
    assert state is not None
    assert (state.dirty, state.diff) == (True, "")
    assert not (checkout / "ran").exists()
    subprocess.run(["git", "diff", "HEAD"], check=False, capture_output=True)
    assert (checkout / "ran").exists(), "git by itself starts it"


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_state() is None
    git("init", "-q")
    assert git_state() is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


def test_a_slow_git_is_not_waited_for(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> SimpleNamespace:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(module.subprocess, "run", run)
    assert git_state() is None
