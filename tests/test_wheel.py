"""What is installed from a wheel, far from the repository: commands, configs, licence."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel, as pip would leave it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("unireason_jax", "configs"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out)
    return out


def test_a_wheel_holds_configs_and_licence(site):
    recipes = site / "unireason_jax" / "synthesis" / "recipes"
    assert {"recipe.toml", "plan.txt", "CARD.md"} <= {
        file.name for file in (recipes / "refine_t2i").iterdir()
    }
    assert (site / "configs" / "tiny.py").exists() and not (site / "tests").exists()
    (metadata,) = site.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0" in metadata.read_text()
    (licence,) = site.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text()


@pytest.mark.parametrize("verb", ["train", "compile_check"])
def test_help_of_an_installed_verb_describes_it_and_its_config(site, tmp_path, verb):
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-m", "unireason_jax", verb]
    said = subprocess.run(
        [*command, "--config", "configs/tiny.py", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    about = {"train": "Where the weights come from", "compile_check": "TPU topologies need libtpu"}
    assert about[verb] in said.stdout and "--config " in said.stdout
    assert "optim.lr" in said.stdout and "0.003" in said.stdout  # as configs/tiny.py sets it
    assert said.stderr == "" and "Traceback" not in said.stdout
