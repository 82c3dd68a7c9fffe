from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vlmablate.errors import DiskFull
from vlmablate.files import read_json
from vlmablate.orchestration import provenance, snapshot
from vlmablate.orchestration.provenance import git_patch, git_state, lock_text, record, science_digest


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=n", "-c", "user.email=e@e")
    return subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    root = tmp_path / "checkout"
    (root / "vlmablate").mkdir(parents=True)
    (root / "vlmablate" / "a.py").write_text("a = 1\n")
    (root / ".gitignore").write_text("ignored.py\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def test_a_clean_checkout(checkout: Path):
    sha = git(checkout, "rev-parse", "HEAD").strip()
    assert git_state(checkout) == {"sha": sha, "dirty": False, "patch_sha256": None}
    (checkout / "notes.txt").write_text("not part of the program\n")
    assert git_state(checkout) == {"sha": sha, "dirty": True, "patch_sha256": None}


def test_outside_of_a_checkout_nothing_is_known(tmp_path: Path):
    assert git_state(tmp_path) == {"sha": None, "dirty": None, "patch_sha256": None}


def test_the_patch_leads_from_the_commit_to_the_working_tree(checkout: Path, tmp_path: Path):
    (checkout / "vlmablate" / "a.py").write_text("a = 2\n")
    (checkout / "vlmablate" / "new é.py").write_text("b = 'é'\n")
    (checkout / "vlmablate" / "picture.bin").write_bytes(bytes(range(256)))
    (checkout / "vlmablate" / "ignored.py").write_text("c = 1\n")
    git(checkout, "add", "-N", "vlmablate/picture.bin")
    before = git(checkout, "status", "--porcelain")
    patch = git_patch(checkout)
    assert git(checkout, "status", "--porcelain") == before
    assert git_state(checkout)["patch_sha256"] == hashlib.sha256(patch).hexdigest()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkout), str(clone))
    (tmp_path / "changes.patch").write_bytes(patch)
    git(clone, "apply", str(tmp_path / "changes.patch"))
    assert (clone / "vlmablate" / "a.py").read_text() == "a = 2\n"
    assert (clone / "vlmablate" / "new é.py").read_text() == "b = 'é'\n"
    assert (clone / "vlmablate" / "picture.bin").read_bytes() == bytes(range(256))
    assert not (clone / "vlmablate" / "ignored.py").exists()


def test_a_study_keeps_digests_and_the_files_behind_them_once(checkout: Path, results: Path, monkeypatch):
    (checkout / "vlmablate" / "a.py").write_text("a = 2\n")
    real = provenance.PACKAGE
    science_digest()  # of the real package, before the checkout stands in for its commit
    monkeypatch.setattr(provenance, "PACKAGE", checkout / "vlmablate")
    facts = record(results)
    monkeypatch.setattr(provenance, "PACKAGE", real)
    folder = results / "provenance"
    patch = (folder / "patches" / f"{facts['git']['patch_sha256']}.patch").read_bytes()
    assert b"+a = 2" in patch
    assert (folder / "locks" / f"{facts['lock']}.txt").read_text() == lock_text()
    assert read_json(folder / "code" / f"{facts['code']}.json")["git"] == facts["git"]
    assert (facts["code"], facts["argv"]) == (science_digest(), sys.argv)
    before = {path: path.stat().st_ino for path in folder.rglob("*.*")}
    record(results)
    assert all(path.stat().st_ino == before[path] for path in before)
    assert provenance.code_record(results, facts["code"])["git"]["sha"] == facts["git"]["sha"]


def test_a_patch_that_is_too_large_is_told_and_not_kept(checkout: Path, results: Path, monkeypatch):
    (checkout / "vlmablate" / "a.py").write_text("a = 2\n" * 1000)
    science_digest()
    monkeypatch.setattr(provenance, "PACKAGE", checkout / "vlmablate")
    monkeypatch.setattr(provenance, "MAX_PATCH_BYTES", 100)
    assert record(results)["git"]["patch_too_large"] > 100
    assert not (results / "provenance" / "patches").exists()


def test_the_lock_lists_every_distribution_with_the_version_that_is_imported():
    lines = lock_text().splitlines()
    assert lines[0].startswith("# python 3.")
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for name in ("numpy", "pytest", "omegaconf"):
        assert pinned[name] == metadata.version(name)
    assert "vlmablate" not in pinned


def test_a_distribution_from_a_repository_is_locked_to_its_commit(tmp_path: Path, monkeypatch):
    folder = tmp_path / "site" / "thing-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "direct_url.json").write_text(
        '{"url": "ssh://host/thing", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'
    )
    (tmp_path / "site" / "local_thing-3.dist-info").mkdir()
    (tmp_path / "site" / "local_thing-3.dist-info" / "direct_url.json").write_text('{"url": "file:///x"}')
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "gone")])
    lines = lock_text.__wrapped__().splitlines()
    assert lines[1:] == ["# local_thing==3, installed from file:///x", "thing @ git+ssh://host/thing@abc"]


def test_the_science_digest_follows_the_code_that_makes_numbers_and_no_other(tmp_path: Path, monkeypatch):
    package = tmp_path / "vlmablate"
    for name in ("data", "evaluation", "training", "vlm", "report"):
        (package / name).mkdir(parents=True)
        (package / name / "same.py").write_text(name)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    digest = science_digest.__wrapped__
    before = digest()
    (package / "report" / "same.py").write_text("changed")
    (package / "vlm" / "__pycache__").mkdir()
    (package / "vlm" / "__pycache__" / "same.cpython-311.pyc").write_bytes(b"x")
    assert digest() == before
    (package / "vlm" / "same.py").write_text("training")
    (package / "training" / "same.py").write_text("vlm")
    assert digest() != before


def test_every_result_leads_to_its_code_and_its_environment(sweeps, results: Path):
    sweeps.run()
    for path in results.glob("steps/*/*/result.json"):
        result = read_json(path)
        assert result["code"] == science_digest()
        assert (results / "provenance" / "locks" / f"{result['lock']}.txt").is_file()
        assert (results / "provenance" / "code" / f"{result['code']}.json").is_file()


# The copy of the code


def test_a_snapshot_is_made_once_read_only_and_can_be_imported(results: Path):
    copied = snapshot.snapshot(results)
    assert snapshot.snapshot(results) == copied
    assert [path.name for path in (results / "code").iterdir()] == [copied.name]
    module = copied / "vlmablate" / "orchestration" / "worker.py"
    assert module.stat().st_mode & 0o222 == 0
    assert not (copied / "vlmablate" / "report").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import vlmablate.orchestration.worker as w; print(w.__file__)"],
        env={"PYTHONPATH": str(copied), "PATH": "/usr/bin:/bin"},
        cwd=results,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == module


def test_workers_import_every_step_function_from_a_snapshot(results: Path):
    copied = snapshot.snapshot(results)
    program = (
        "from vlmablate.orchestration.kinds import KINDS, resolve\n"
        "import sys\n"
        "[resolve(kind, KINDS) for kind in KINDS]\n"
        "print({m.__file__.startswith(sys.argv[1]) for n, m in sys.modules.items() if n.split('.')[0] == 'vlmablate'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(copied)],
        env={"PYTHONPATH": str(copied), "PATH": "/usr/bin:/bin"},
        cwd=results,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{True}"


def test_an_edit_makes_another_snapshot_and_leaves_the_first_one_alone(tmp_path: Path, results: Path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("answer = 1\n")
    first = snapshot.snapshot(results, package)
    (package / "__init__.py").write_text("answer = 2\n")
    second = snapshot.snapshot(results, package)
    assert first != second
    assert (first / "pack" / "__init__.py").read_text() == "answer = 1\n"


def test_a_snapshot_on_a_full_disk_leaves_nothing_behind(results: Path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull):
        snapshot.snapshot(results)
    assert list((results / "code").iterdir()) == []
