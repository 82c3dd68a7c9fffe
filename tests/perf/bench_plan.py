"""`make bench`: composing and planning a thousand runs, against Hydra's compose() in the same process. No assertion
depends on time; times are processor seconds.

Peers: compose() for every configuration (a sample of 100 calls, extrapolated); a bare interpreter for whole commands.
The commands use the real source of assets and the real check of the report; only the report itself is pretended.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.design.synthetic_conf import PLAIN, write_tree  # noqa: E402
from tests.perf.plan_request import SEEDS, parts, request  # noqa: E402
from vlmablate.data import assets  # noqa: E402
from vlmablate.design.compose import composer  # noqa: E402
from vlmablate.design.identity import short_id  # noqa: E402
from vlmablate.design.patches import Patches  # noqa: E402
from vlmablate.design.spec import StepSpec  # noqa: E402
from vlmablate.files import encode_json  # noqa: E402
from vlmablate.orchestration.controller import Controller  # noqa: E402
from vlmablate.orchestration.plan import unique_steps  # noqa: E402
from vlmablate.orchestration.provenance import science_digest  # noqa: E402
from vlmablate.orchestration.store import Store  # noqa: E402
from vlmablate.orchestration.study import build_runs, compose_cells  # noqa: E402
from vlmablate.report import build  # noqa: E402
from vlmablate.report.study import Study  # noqa: E402

RUNS, SAMPLE, ROUNDS = 1000, 100, 3
ARMS, CONTEXTS = 20, 5
assert ARMS * CONTEXTS * SEEDS == RUNS


def cpu_s() -> float:
    """Processor seconds of this process and of the children it has waited for: other work on the machine does not
    count."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def cost(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Fewest processor seconds of `rounds` calls."""
    spent = []
    for _ in range(rounds):
        begun = cpu_s()
        work()
        spent.append(cpu_s() - begun)
    return min(spent)


def line(name: str, seconds: float, ratio: float, words: str) -> None:
    print(f"{name:<34} {seconds * 1e3:9.1f} ms   {ratio:6.2f} x   {words}")


def bench_composition(folder: Path) -> None:
    """A thousand configurations of 14 groups and 171 values, each hashed, from a cold start."""
    conf = write_tree(folder)
    choices = itertools.product(*([(f"{group}=a",), (f"{group}=b",)] for group in PLAIN))
    sets = random.Random(0).sample(list(choices), RUNS)
    with composer(conf) as cold:
        begun = cpu_s()
        patches = Patches(cold, ["g13=b"])
        ids = {short_id(patches.compose(combination)) for combination in sets}
        ours = cpu_s() - begun
        assert len(ids) == RUNS
        options = len(cold.known)
    GlobalHydra.instance().clear()
    with initialize_config_dir(
        version_base="1.3", config_dir=str(conf)
    ):  # Hydra as it comes, without our short cuts
        begun = cpu_s()
        plain = [
            OmegaConf.to_container(
                compose("config", overrides=["g13=b", *itertools.chain(*combination)]), resolve=True
            )
            for combination in sets[:SAMPLE]
        ]
        theirs = (cpu_s() - begun) * RUNS / SAMPLE
    assert [patches.compose(combination) for combination in sets[:SAMPLE]] == plain
    words = f"compose() for each ({theirs:.1f} s, extrapolated from {SAMPLE}); {options} calls here"
    line("1,000 configurations", ours, theirs / ours, f"against {words}")


def declare(home: Path) -> None:
    """An axis of ARMS arms in CONTEXTS contexts, over the packaged configuration tree."""
    arms = {
        f"a{i}": {"overrides": [f"stages.finetune.batch_scenes={8 + i}"], "label": f"arm {i}"}
        for i in range(ARMS)
    }
    contexts = {f"c{i}": {"overrides": [f"llm.code_std={0.1 * (i + 1):.1f}"]} for i in range(CONTEXTS)}
    axis = {"name": "wide", "question": "How wide?", "baseline": "a0", "arms": arms, "contexts": contexts}
    (home / "axes").mkdir(parents=True)
    (home / "axes" / "wide.yaml").write_text(yaml.safe_dump(axis))


def finish(home: Path) -> int:
    """Write the results of every step; how many there are."""
    with composer() as compose:
        _, cells = compose_cells(request(), compose, home / "axes")
    runs = build_runs(cells, request().seeds, {}, assets, "smoke")
    assert len(runs) == RUNS
    steps = unique_steps(runs)
    store = Store(home)
    for step in steps.values():
        _finish(store.kind_directory(step.kind) / step.name, step)
    return len(steps)


def _finish(directory: Path, step: StepSpec) -> None:
    directory.mkdir(parents=True)
    (directory / "spec.json").write_bytes(encode_json(step.to_dict()))
    (directory / "payload.bin").write_bytes(b"0123456789")
    means = {f"benchmark{i}": {"metric": "exact", "n": 100, "mean": 0.5, "majority": 0.2} for i in range(6)}
    result = {
        "id": step.id,
        "kind": step.kind,
        "payload": {"benchmarks": means},
        "files": {"payload.bin": {"bytes": 10, "sha256": "0" * 64}},
        "wall_s": 10.0,
        "code": science_digest(),
        "versions": {f"library{i}": "1.2.3" for i in range(10)},
    }
    (directory / "result.json").write_bytes(encode_json(result))


COMMAND = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.perf.plan_request import parts, request
from vlmablate.orchestration.controller import Controller
made = parts(Path({home!r}))
code = getattr(Controller(request(), made), {verb!r})()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
loaded = sorted({{"torch", "numpy", "pandas", "wandb", "optuna", "hydra"}} & set(sys.modules))
print(code, int(peak.split()[1]) // 1024, loaded)
"""


def command(home: Path, verb: str) -> tuple[float, str]:
    """Processor seconds of a fresh process, and what it said: exit code, peak memory in MB, heavy modules."""
    begun = cpu_s()
    text = COMMAND.format(root=str(ROOT), home=str(home), verb=verb)
    # As on any machine, the second start of a program finds its bytecode.
    there = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = {**there, "PYTHONPYCACHEPREFIX": f"{home}-bytecode"}
    done = subprocess.run(
        [sys.executable, "-c", text], check=True, capture_output=True, text=True, env=environment
    )
    return cpu_s() - begun, done.stdout.strip()


def report(home: Path) -> None:
    """What the first run after the last step does: write the declaration, keep the compositions, make the report."""

    def pretend(study: Study) -> dict[str, Any]:
        for name in build.OUTPUTS:
            (study.folder / name).touch()
        return {"verdicts": ["nothing was measured"], "missing": []}

    with mock.patch.object(build, "_build", pretend), mock.patch("builtins.print"):
        Controller(request(), parts(home)).run()


def bench_commands(home: Path) -> None:
    """Whole commands over a thousand runs, each in a process of its own."""
    bare = cost(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    words = f"of a bare interpreter ({bare * 1e3:.0f} ms)"
    declare(home)
    took, said = command(home, "plan")
    line("plan of 1,000 new runs, cold", took, took / bare, f"{words}; exit code, MB, heavy modules: {said}")
    steps = finish(home)
    report(home)
    for name, verb in (("plan of 1,000 finished runs", "plan"), ("the same sweep again, 1,000 runs", "run")):
        took, said = min(command(home, verb) for _ in range(ROUNDS))
        line(name, took, took / bare, f"{words}; {steps:,} steps; exit code, MB, heavy modules: {said}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench_composition(Path(folder) / "conf")
        bench_commands(Path(folder) / "home")


if __name__ == "__main__":
    main()
