"""Dangers: a wheel that lacks a file, needs the repository beside it, or an sdist that does not build."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from hf_structkd import __version__

pytest.importorskip("build", reason="wheels are built with `build`, of the extra `dev`")
pytest.importorskip("twine", reason="wheels are checked with `twine`, of the extra `dev`")
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
TINY = '{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}'


def run(*command: object, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A wheel made from an sdist that is made from what is tracked: nothing else can get in."""
    folder = tmp_path_factory.mktemp("built")
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in tracked:
        if name.startswith(("hf_structkd/", "examples/recipes/")) or "/" not in name:
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder / "dist", folder / "source")
    return folder / "dist"


def test_what_they_hold(built):
    wheel, sdist = (next(built.glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    names = zipfile.ZipFile(wheel).namelist()
    package = ROOT / "hf_structkd"
    needed = {f"hf_structkd/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    needed |= {f"hf_structkd/{path.relative_to(package).as_posix()}" for path in package.rglob("*.md")}
    needed.add("hf_structkd/data/demo.yaml")
    recipes = ROOT / "examples" / "recipes"
    needed |= {f"hf_structkd/recipes/shipped/{p.relative_to(recipes).as_posix()}" for p in recipes.rglob("*.yaml")}
    assert needed - set(names) == set()
    metadata = zipfile.ZipFile(wheel).read(f"hf_structkd-{__version__}.dist-info/METADATA").decode()
    assert "# hf_structkd" in metadata
    assert "](docs/" not in metadata
    tops = {name.split("/")[0] for name in names}
    assert tops == {"hf_structkd", f"hf_structkd-{__version__}.dist-info"}
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/hf_structkd/recipes/run.py") for name in archive.getnames())


def test_a_small_distillation_by_the_wheel_alone(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # What the package needs is there; the package itself, which this environment has as a link, is not.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    where = {"cwd": tmp_path, "env": plain}
    wheel = next(built.glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, **where)
    origin = run(python, "-c", "import hf_structkd; print(hf_structkd.__file__)", **where)
    assert Path(origin.strip()).is_relative_to(tmp_path / "env")
    structkd = tmp_path / "env" / "bin" / "structkd"
    assert __version__ in run(structkd, "--version", **where)
    assert "demo" in run(structkd, "distill", "--list-recipes", **where)
    small = ("--languages", "en", "--model_config", TINY, "--teacher_model_config", TINY, "--vocab_size", 250)
    sizes = ("--max_train_sentences", 30, "--teacher_max_train_sentences", 40, "--max_dev_sentences", 10)
    short = ("--max_test_sentences", 10, "--num_train_epochs", 1, "--teacher_num_train_epochs", 1, "--use_cpu")
    printed = run(structkd, "distill", "demo", *small, *sizes, *short, "--output_dir", "runs/small", **where)
    assert "== Where everything is" in printed
    assert (tmp_path / "runs/small/student/README.md").exists()
    scores = run(structkd, "evaluate", "--checkpoint", "runs/small/student", "--corpus", "demo", "--languages", "en",
                 "--max_test_sentences", 5, **where)  # fmt: skip
    assert "avg" in scores or "en" in scores
