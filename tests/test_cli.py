from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vlmablate import cli, sweep
from vlmablate.design.catalogue import axis_names
from vlmablate.design.declarations import declaration_names
from vlmablate.errors import UserError


def test_help_teaches_the_verbs(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb: str, capsys):
    assert cli.main([verb, "--help"]) == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", cli.LIVED_WITH)
def test_the_help_of_a_verb_shows_examples_that_are_read(verb: str, capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    cli.main([verb, "--help"])
    text = capsys.readouterr().out
    # What follows two blanks explains the example.
    examples = re.findall(
        rf"^  (vlmablate {verb}.*?)(?:  .*)?$", text.partition("examples:")[2], re.MULTILINE
    )
    assert len(examples) >= 2
    for example in examples:
        cli.main(shlex.split(example.partition(" |")[0])[1:])
        said = capsys.readouterr().err
        understood = ("error: nothing is called", "error: unknown study", "is no results folder")
        assert not said or any(words in said for words in understood), said


def test_sweep_help_lists_every_axis_with_its_question(capsys):
    assert sweep.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"axis={name}" in text for name in axis_names())
    assert text.count("?") >= len(axis_names())


def test_mistakes_are_one_message_and_exit_code_2(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path / "home"))
    mistakes = ("sweeep", "sweep", "sweep axis=nope", "status nope", "report", "report nope", "fetch x")
    lived_with = (
        "why", "why nope", "why a b", "tail", "tail nope", "tail nope -n many", "cancel", "cancel nope", "retry nope",
        "status --jsn", "status --json --watch", "gc nope", "reproduce nope", "cancel x --why",
    )  # fmt: skip
    for arguments in map(str.split, (*mistakes, *lived_with)):
        assert cli.main(arguments) == 2
        caught = capsys.readouterr()
        assert caught.err.startswith("error: ")
        assert "Traceback" not in caught.err
        assert caught.out == ""
    assert not (tmp_path / "home").exists()


def test_an_axis_must_be_named_and_the_error_lists_the_questions():
    with pytest.raises(UserError) as caught:
        sweep.parse(["seeds=3"])
    assert all(f"axis={name}" in str(caught.value) for name in axis_names())


def test_arguments():
    parsed = sweep.parse(
        ["axis=fusion", "seeds=[0,4]", "scale=smoke", "mode=plan", "image=resize_crop", "~tracking"]
    )
    assert (parsed.axis, parsed.seeds, parsed.scale, parsed.mode) == ("fusion", (0, 4), "smoke", "plan")
    assert parsed.overrides == ("image=resize_crop", "~tracking")
    assert sweep.parse(["axis=fusion"]).seeds == (0, 1, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["axis=fusion", "seeds=0"],
        ["axis=fusion", "seeds=-1"],
        ["axis=fusion", "seeds=[1,1]"],
        ["axis=fusion", "seeds=a"],
        ["axis=fusion", "mode=walk"],
        ["axis=fusion", "axis=epochs"],
        ["axis=fusion", "study=../x"],
        ["axis=fusion", "verbose"],
        ["axis=fusion", "detach=perhaps"],
    ],
)
def test_bad_arguments_are_refused(arguments: list[str]):
    with pytest.raises(UserError):
        sweep.parse(arguments)


def test_the_command_asks_for_the_same_thing():
    words = ["axis=fusion", "seeds=[0,4]", "scale=smoke", "launcher=debug", "study=s", "data.nouns='a b'"]
    parsed = sweep.parse(words)
    import shlex

    again = shlex.split(parsed.command())
    assert again[:3] == ["python", "-m", "vlmablate.sweep"]
    assert sweep.parse(again[3:]) == parsed


def test_a_study_alone_is_one_that_is_declared():
    parsed = sweep.parse(["study=prismatic", "seeds=5"])
    assert (parsed.axis, parsed.study, parsed.seeds, parsed.scale) == ("", "prismatic", (0, 1, 2, 3, 4), None)
    made = sweep.asked(parsed)
    assert made.command == parsed.command() == "python -m vlmablate.sweep study=prismatic seeds=5"
    assert {request.axis for request in made.requests} == set(axis_names()) - {"epochs_trunk"}
    for request in made.requests:
        assert request.name == f"prismatic-{request.axis}"
        alone = sweep.parse(shlex.split(request.command)[3:])
        assert sweep.asked(alone).requests == (request,)


def test_a_declared_study_of_another_scale_or_with_overrides_has_a_name_of_its_own():
    def name(*words: str) -> str:
        return sweep.asked(sweep.parse(["study=quickstart", *words])).name

    assert name() == name("scale=tiny") == name("analysis.margin=1") == "quickstart"
    assert name("scale=smoke") == "quickstart-smoke"
    assert name("data.seed=1").startswith("quickstart-")
    assert name("data.seed=1") != name("data.seed=2")


def test_with_an_axis_a_study_is_a_folder():
    made = sweep.asked(sweep.parse(["axis=stages", "study=prismatic"]))
    assert [request.name for request in made.requests] == ["prismatic"]


def test_help_lists_the_declared_studies(capsys):
    assert sweep.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"study={name}" in text for name in declaration_names())
    assert "10: there is work" in text


def test_status_of_nothing(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    assert cli.main(["status"]) == 0
    assert "no studies" in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "home": str(tmp_path), "studies": []}


def test_a_closed_pipe_is_no_error(tmp_path: Path):
    command = f"{sys.executable} -m vlmablate.cli --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "Traceback" not in done.stderr
