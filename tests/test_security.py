"""What is opened runs nothing: no file of the package opens a way in, and crafted files are refused."""

import ast
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed

from pd_lightning.checkpoints import load_checkpoint, save_checkpoint
from pd_lightning.checkpoints.sharded import read_shards
from pd_lightning.store.checksums import checksums_json, digest_file

ROOT = Path(__file__).resolve().parents[1]
BYTES_THAT_RUN_CODE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# It names an error of torch.load(weights_only=True).
ALLOWED = {"pd_lightning/checkpoints/files.py": {"import of pickle"}}


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("pd_lightning", "callbacks", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def ways_in(text: str) -> list[tuple[int, str]]:
    """Lines of code that turn bytes or text of others into code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [(node.lineno, f"import of {name}") for name in modules if name.split(".")[0] in BYTES_THAT_RUN_CODE]
        if isinstance(node, ast.Call) and (problem := _call(node)):
            found.append((node.lineno, problem))
    return found


def _call(node: ast.Call) -> str | None:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    last = name.rpartition(".")[2]
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        return name
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        return "np.load of pickles"
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        return f"{name} instead of yaml.safe_load"
    if last in ("extractall", "unpack_archive"):
        return last
    if given.get("trust_remote_code") == "True" or given.get("shell") == "True":
        return "trust_remote_code or shell"
    reads_a_model = last in ("from_pretrained", "from_config") and name.split(".")[0].startswith("Auto")
    if reads_a_model and "trust_remote_code" not in given and None not in given:
        return f"{name} without trust_remote_code"
    if last == "from_pretrained" and "CausalLM" in name and given.get("use_safetensors") != "True":
        return f"{name} without use_safetensors"
    return None


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import cloudpickle as c",
        "import marshal, json",
        "import shelve",
        "import joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=given)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "zipfile.ZipFile(path).extractall(folder)",
        "shutil.unpack_archive(path)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(name)",
        "AutoModelForCausalLM.from_config(config)",
        "AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False)",
    ],
)
def test_a_way_in_is_seen(text: str) -> None:
    assert len(ways_in(text)) == 1


def test_no_way_in_stands_in_the_package() -> None:
    files = dict(sources())
    assert "pd_lightning/checkpoints/files.py" in files
    found = {name: [f"{line}: {problem}" for line, problem in ways_in(text)] for name, text in files.items()}
    assert {name: problems for name, problems in found.items() if problems and name not in ALLOWED} == {}
    for name, allowed in ALLOWED.items():
        assert {problem for _, problem in ways_in(files[name])} == allowed, "a list that is longer than it must be"


def test_trust_remote_code_is_off_by_default() -> None:
    from inspect import signature

    from pd_lightning.export import load_student
    from pd_lightning.students import HFStudent, PrunedStudent
    from pd_lightning.teachers import FrozenTeacher

    for built in (HFStudent, PrunedStudent, FrozenTeacher, load_student):
        assert signature(built).parameters["trust_remote_code"].default is False


class Burglar:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def loot(tmp_path: Path) -> Path:
    return tmp_path / "loot"


@pytest.fixture
def model_folder(tmp_path: Path, teacher_dir: Path, loot: Path) -> Path:
    """A teacher that brings code of its own."""
    folder = tmp_path / "model"
    shutil.copytree(teacher_dir, folder)
    code = (
        f"import os\nos.mkdir({str(loot)!r})\nfrom transformers import LlamaConfig as Config, LlamaForCausalLM as Model"
    )
    (folder / "code.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    autos = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "burglar", "auto_map": autos}))
    return folder


def test_code_that_comes_with_a_model_is_not_run(model_folder: Path, loot: Path) -> None:
    from pd_lightning.language_model import load_causal_lm

    with pytest.raises(FileNotFoundError, match=r"model\.teacher\.init_args\.model must be a folder"):
        load_causal_lm(str(model_folder), "auto", "model.teacher.init_args.model", trust_remote_code=False)
    assert not loot.exists()


def test_pickled_weights_are_not_read(tmp_path: Path, teacher_dir: Path, loot: Path) -> None:
    from pd_lightning.language_model import load_causal_lm

    folder = tmp_path / "model"
    shutil.copytree(teacher_dir, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Burglar(loot)))
    with pytest.raises(FileNotFoundError, match="its weights are pickled, which could run code: save the model anew"):
        load_causal_lm(str(folder), "auto", "model.teacher.init_args.model")
    assert not loot.exists()


def test_a_folder_of_pickles_is_not_read(tmp_path: Path, loot: Path) -> None:
    """What Lightning's own strategies write, whose index torch unpickles, and what DeepSpeed writes."""
    folder = tmp_path / "sharded.ckpt"
    with pytest.warns(UserWarning, match="save in a single process"):
        distributed.save({"state_dict": {"w": torch.ones(4)}}, checkpoint_id=folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Burglar(loot)))
    torch.save(Burglar(loot), folder / "meta.pt")
    for read in (read_shards, lambda path: load_checkpoint(path, "--ckpt_path")):
        with pytest.raises(ValueError, match=r"must be a whole checkpoint, got .* it has no checksums\.json"):
            read(folder)
    assert not loot.exists()


def test_pickles_in_a_sharded_checkpoint_are_not_read(tmp_path: Path, loot: Path) -> None:
    """Whoever made it has also made checksums that agree."""
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    save_file({"state_dict/w": torch.ones(4)}, folder / "shard-00001-model-00001-of-00001.safetensors")
    save_checkpoint({"pytorch-lightning_version": "2.6", "optimizer_states": []}, folder / "rest.ckpt")
    (folder / ".metadata").write_bytes(pickle.dumps(Burglar(loot)))

    def agree() -> None:
        files = {file.name: digest_file(file) for file in folder.iterdir() if file.name != "checksums.json"}
        (folder / "checksums.json").write_bytes(checksums_json(files))

    agree()
    assert torch.equal(load_checkpoint(folder, "--ckpt_path")["state_dict"]["w"], torch.ones(4))
    torch.save({"pytorch-lightning_version": "2.6", "x": Burglar(loot)}, folder / "rest.ckpt")
    agree()
    with pytest.raises(ValueError, match="could run code of whoever wrote it"):
        load_checkpoint(folder, "--ckpt_path")
    assert not loot.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/hostname"])
def test_a_sharded_checkpoint_of_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("x")
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    files = {name: digest_file(folder / name)}
    (folder / "checksums.json").write_bytes(checksums_json(files))
    with pytest.raises(ValueError, match=r"must be a whole checkpoint, got .* must lie inside it"):
        load_checkpoint(folder, "--ckpt_path")


def test_the_page_names_tests_that_are_there() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w./]*)`", page)
    assert len(named) == 9
    assert [name for name in named if not (ROOT / name).exists()] == []
