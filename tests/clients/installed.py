"""Where the clients are: a virtual environment per lock of requirements/, a folder of node modules.

A lock is made anew by `uv pip compile --no-annotate --no-header NAME.in -o NAME.lock`, and node's by
`npm install` beside package.json. Clients whose requirements exclude each other have locks of their own.
"""

import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def is_current(stamp: pathlib.Path, lock: pathlib.Path) -> bool:
    return stamp.exists() and stamp.read_text() == lock.read_text()


def python(home: pathlib.Path, name: str) -> pathlib.Path:
    """The interpreter of an environment that holds what a lock lists; made anew when it has changed."""
    folder, lock = home / f"venv-{name}", HERE / f"requirements/{name}.lock"
    stamp, interpreter = folder / "installed.lock", folder / "bin/python"
    if not is_current(stamp, lock):
        print(f"installing {lock.name} into {folder}", flush=True)
        # Without pip inside: Debian keeps `ensurepip` in a package of its own.
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", interpreter]
        subprocess.run([*pip, "install", "--quiet", "-r", lock], check=True)
        shutil.copy(lock, stamp)
    return interpreter


def node(home: pathlib.Path) -> pathlib.Path:
    """A folder with the checks beside their modules, as node looks for them."""
    folder, lock = home / "node", HERE / "node/package-lock.json"
    stamp = folder / "installed.lock"
    folder.mkdir(exist_ok=True)
    for file in (HERE / "node").iterdir():
        shutil.copy(file, folder)
    if not is_current(stamp, lock):
        print(f"installing {lock.name} into {folder}", flush=True)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
        shutil.copy(lock, stamp)
    return folder
