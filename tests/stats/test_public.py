"""The names that `vlmablate.stats` promises are there, and cost nothing until they are used."""

from __future__ import annotations

import subprocess
import sys

import vlmablate.stats


def test_every_public_name_is_the_function_of_its_module() -> None:
    assert sorted(vlmablate.stats._WHERE) == vlmablate.stats.__all__
    for name in vlmablate.stats.__all__:
        found = getattr(vlmablate.stats, name)
        assert found.__name__ == name
        assert name in dir(vlmablate.stats)


def test_the_package_alone_imports_no_numpy() -> None:
    code = "import sys, vlmablate.stats; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
