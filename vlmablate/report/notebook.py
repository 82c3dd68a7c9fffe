"""The report as an executed notebook that derives the main table again from the files beside it."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vlmablate.files import write_with

KERNEL = "vlmablate-report"
CELL_TIMEOUT_S = 600
LONGEST_SOCKET_PATH = 90
"""Unix socket paths end at about 100 bytes; a longer temporary folder falls back to the loopback network."""


class KernelError(RuntimeError):
    """The notebook's kernel could not be started (no loopback sockets, no ipykernel)."""


def from_percent(source: str, values: Mapping[str, str], tags: Collection[str] = ()) -> Any:
    """Turn a percent-format script (`# %%`, `# %% [markdown]`) into a notebook.

    `{name}` in markdown cells is replaced from `values`; code cells are taken as they are. A cell with a tag
    (`# %% tags=["space"]`) is there only if `tags` has it. Cell ids are their position, so equal sources give equal
    notebooks.
    """
    import nbformat.v4 as v4

    cells = []
    for index, part in enumerate(re.split(r"^# %%", source, flags=re.MULTILINE)[1:]):
        head, _, body = part.partition("\n")
        tag = re.search(r'tags=\["(\w+)"\]', head)
        if tag and tag[1] not in tags:
            continue
        if "[markdown]" in head:
            text = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
            for name, value in values.items():
                text = text.replace("{" + name + "}", value)
            cell = v4.new_markdown_cell(text)
        else:
            cell = v4.new_code_cell(body.strip())
        cell["id"] = f"cell-{index:02d}"
        cells.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def execute(notebook: Any, folder: Path) -> float:
    """Run the notebook in `folder` with this interpreter; outputs are stored in it. Returns seconds.

    The kernel is described by a temporary kernelspec, so none has to be registered, and keeps its history,
    settings and connection file in a temporary folder. Raises KernelError if it does not start; a cell that
    fails (the derived numbers disagree with the table) raises nbclient's CellExecutionError.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="vlmablate-kernel-") as temporary:
        spec = Path(temporary) / "kernels" / KERNEL
        spec.mkdir(parents=True)
        argv = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--HistoryManager.enabled=False",
        ]
        spec.joinpath("kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"})
        )
        specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
        manager = AsyncKernelManager(kernel_name=KERNEL, kernel_spec_manager=specs)
        manager.connection_file = str(Path(temporary) / "connection.json")
        sockets = str(Path(temporary) / "kernel")
        if os.name == "posix" and len(sockets) < LONGEST_SOCKET_PATH:
            # Sockets in a private folder: no port that others can reach, and no network is needed at all.
            manager.transport, manager.ip = "ipc", sockets
        environment = {
            **os.environ,
            "IPYTHONDIR": temporary,
            "JUPYTER_CONFIG_DIR": temporary,
            "PYTHONUNBUFFERED": "1",
        }
        environment |= {
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=CELL_TIMEOUT_S,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        client.owns_km = True  # it shall also shut the kernel down
        try:
            client.execute(env=environment, cwd=str(folder))
        except (CellExecutionError, CellTimeoutError):
            raise
        except (DeadKernelError, RuntimeError, OSError) as error:
            raise KernelError(f"the notebook kernel did not start: {error}") from error
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return time.perf_counter() - started


def write(notebook: Any, path: Path) -> None:
    """Write the notebook file whole or not at all."""
    import nbformat

    with write_with(path) as temporary:
        nbformat.write(notebook, temporary)
