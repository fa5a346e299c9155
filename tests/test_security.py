"""What comes from outside runs nothing, leads nowhere, and takes nothing away."""

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import pytest
from fixtures.fast_compile import fast_compile
from fixtures.tiny_folder import make_tiny_folder

import vtzero
from vtzero.cli import main
from vtzero.data.processor import Processor
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.convert import import_folder
from vtzero.training.huggingface import load_model

PACKAGE = Path(vtzero.__file__).parent
RUNS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "torch", "joblib"}
SECRETS = {
    "HF_TOKEN": "hf_" + "kT9x" * 9,
    "OPENAI_API_KEY": "sk-proj-" + "Zq7_Lm-2" * 8,
    "WANDB_API_KEY": "3f9c1a7e5d" * 4,
    "SIGNED_LINK": "https://host/a.png?sig=9Yt4Rw",
}
# A library's error may quote what it was called with, which only this run's own environment holds.
TELLS = """
import os

def tells(completions, **columns):
    if len(completions) > 1:
        said = {name: os.environ[name] for name in NAMES}
        raise RuntimeError(f"refused: {said}; Authorization: Bearer {said['HF_TOKEN'][3:]}")
    return [float(len(text)) for text in completions]
"""
CODE = "open({!r}, 'w').write('ran')\nclass Custom:\n    pass\n"


@cache
def calls() -> list[tuple[str, str, str]]:
    """Every call in the package: its file, the name of what is called, and the whole of it."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                keywords = ", ".join(f"{one.arg}={ast.unparse(one.value)}" for one in node.keywords)
                name = node.func.id if isinstance(node.func, ast.Name) else f".{node.func.attr}"
                owner = node.func.value if isinstance(node.func, ast.Attribute) else None
                name = f"{owner.id}{name}" if isinstance(owner, ast.Name) else name
                found.append((path.relative_to(PACKAGE).as_posix(), name, keywords))
    return found


def test_pickles_are_read_in_one_place_that_runs_nothing():
    pattern = re.compile(rf"^\s*(import|from) ({'|'.join(RUNS)})\b", re.M)
    importers = [path for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())]
    assert [path.name for path in importers] == ["plain_pickles.py"]


def test_yaml_is_read_in_one_place_and_nothing_is_evaluated():
    assert {path for path, name, _ in calls() if re.match(r"yaml\..*load", name)} == {"plain_yaml.py"}
    for path, name, keywords in calls():
        assert name not in ("eval", "exec", "os.system", "os.popen", "np.load"), path
        assert "shell=True" not in keywords, path
        assert "allow_pickle=True" not in keywords, path


def test_code_of_the_hub_is_refused_wherever_a_folder_is_read():
    readers = [keywords for _, name, keywords in calls() if name.endswith("from_pretrained")]
    assert len(readers) == 1
    assert "trust_remote_code=False" in readers[0]


def with_code(folder: Path, ran: Path) -> Path:
    """A sound folder that asks in every way for code of its own to be run."""
    (folder / "custom.py").write_text(CODE.format(str(ran)))
    (folder / "tokenization_custom.py").write_text(CODE.format(str(ran)))
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "custom.Custom")
    auto |= {"AutoTokenizer": ["custom.Custom", "custom.Custom"]}
    # The sandbox of the template would be left through the class of a text.
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in ().__class__.__base__.__subclasses__() %}"
    )
    template += "{{ cycler.__init__.__globals__.os.popen('touch " + str(ran) + "').read() }}{% endfor %}"
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": auto, "trust_remote_code": True, "chat_template": template}
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_code_and_templates_in_a_models_folder_are_never_run(tmp_path):
    ran = tmp_path / "ran"
    folder = with_code(make_tiny_folder(tmp_path / "model"), ran)
    processor = Processor.from_folder(folder)
    assert processor.encode("a cube")
    load_model(folder)
    import_folder(folder, tmp_path / "imported")
    assert not ran.exists()
    assert (tmp_path / "imported" / "source" / "tokenizer.json").is_file()
    assert not list((tmp_path / "imported").rglob("*.py"))


def test_a_tokenizer_of_a_class_of_its_own_is_refused_without_a_question(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    ran = tmp_path / "ran"
    folder = with_code(make_tiny_folder(tmp_path / "model"), ran)
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(content | {"tokenizer_class": "Custom"}))
    main(["sample", "--model", str(folder), "--max-prompt-length", "1", "Where?"])
    assert capsys.readouterr().err.count("\n") == 1
    assert not ran.exists()


def test_a_checkpoint_holds_no_pickle(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, {"a": jnp.arange(1000.0), "b": jnp.float32(1)}, {"step": 1})
    checkpoints.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if re.match(rb"\x80[\x02-\x05]", path.read_bytes()[:2])]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".npy", ".npz")]


def test_a_file_of_rewards_is_run_only_where_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("rewards.py", "a.py", "vtzero_rewards.py", "accuracy_paper.py"):
        Path(name).write_text(CODE.format("ran") + "def f(completions, **columns):\n    return [0]\n")
    Path("a.yaml").write_text("reward_funcs: [accuracy_paper, format_paper]\n")
    assert main(["train", "a.yaml", "--dry_run"]) == 0
    assert not Path("ran").exists()
    assert main(["train", "a.yaml", "--reward_funcs", "a.py:f", "--dry_run"]) == 0
    assert Path("ran").exists()
    capsys.readouterr()


def test_a_traceback_tells_no_secret(tmp_path, monkeypatch, capsys):
    """That of an error which nobody foresaw."""

    def fails(*_, **__):
        raise RuntimeError("401 for https://host/a.png?X-Amz-Signature=9Yt4Rw with Bearer 3fQ8zLx1c0Vb")

    (tmp_path / "a.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(Path, "read_text", fails)
    assert main(["train", str(tmp_path / "a.yaml"), "--dry_run"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "RuntimeError: 401 for https://host/a.png?… with Bearer ***" in said
    assert "9Yt4Rw" not in said


@pytest.mark.slow
def test_no_secret_of_the_environment_is_in_what_a_run_writes_or_says(tmp_path, monkeypatch, capsys):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    (tmp_path / "own.py").write_text(TELLS.replace("NAMES", repr(tuple(SECRETS))))
    model = make_tiny_folder(tmp_path / "model", num_hidden_layers=1)
    (tmp_path / "a.yaml").write_text("max_steps: 1\nprompts_per_step: 2\nnum_generations: 2\n")
    folders = ["--model", str(model), "--output_dir", str(tmp_path / "run")]
    folders += ["--reward_funcs", f"[{tmp_path}/own.py:tells]"]
    lengths = ["--max_completion_length", "4", "--max_prompt_length", "200", "--eval_data", "null"]
    with fast_compile():
        code = main(["train", str(tmp_path / "a.yaml"), *folders, *lengths])
    shown = capsys.readouterr()
    assert code == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 10
    said = json.loads((tmp_path / "run" / "rejected.jsonl").read_text())["reason"]
    assert "'HF_TOKEN': '***', 'OPENAI_API_KEY': '***', 'WANDB_API_KEY': '***'" in said
    assert "'https://host/a.png?…'}; Authorization: Bearer ***" in said
    for secret in (*SECRETS.values(), SECRETS["HF_TOKEN"][3:], "9Yt4Rw"):
        for path in written:
            assert secret.encode() not in path.read_bytes(), path
        assert secret not in shown.out + shown.err


@pytest.mark.parametrize(
    "spec", ["https://me:p@ss1234@host/rows.jsonl", "sat=https://me:p@ss1234@host/rows.parquet?sig=ss1234"]
)
@pytest.mark.parametrize("key", ["data", "eval_data", "model"])
def test_a_link_is_told_without_what_opens_it(tmp_path, capsys, key, spec):
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    assert main(["train", str(tmp_path / "a.yaml"), f"--{key}={spec}", "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert "/***@host/rows." in said
    assert "ss1234" not in said


def test_every_dependency_has_a_lower_bound_or_a_version():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    bare = [
        one for one in project["dependencies"] if not re.fullmatch(r"[\w.-]+(\[\w+\])?(>=|==)[\w.]+", one)
    ]
    assert bare == []
