"""docs/ is right: tutorial and how-tos print what they say, and every command named is there."""

import contextlib
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from model_cache import demo_rows, make_cache

from data.errors import WeightsError
from extract.weights.resolve import resolve_weights
from feat import cli
from model.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
#: Words that files of a cache begin with, and the command that a reader of EXTEND.md writes.
NO_COMMANDS = ("feat shard", "feat imported", "feat data street")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def console_steps(page: Path) -> list[tuple[str, list[str]]]:
    """Return (command, printed lines) of a page's console blocks, in order.

    A command begins with `$ ` and goes on in lines that begin with `> `.
    """
    steps: list[tuple[str, list[str]]] = []
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif line.startswith("> ") and not steps[-1][1]:
                steps[-1] = (f"{steps[-1][0]}\n{line[2:]}", [])
            else:
                steps[-1][1].append(line)
    return steps


#: What differs from one machine or run to the next, in what else must be printed as the page says.
VARYING = (
    r"\d+\.\d+|\d{8}-\d{6}|\d{4}-\d\d-\d\d \d\d:\d\d|(?<=  )\d+:\d+(?= )"
    r"|(?<=frame )\d+|(?<=step )\d+ of \d+|\d+(?= s$)"
)


def as_pattern(line: str) -> re.Pattern[str]:
    """Return what may be printed for a line of the page, in which `...` is any text."""
    patterns = {"any": ".*", "varying": r"\d[\d.: of-]*", "space": r"\s+"}
    parts, end = [], 0
    kinds = rf"(?P<any>\.\.\.)|(?P<varying>{VARYING})|(?P<space>\s+)"
    for match in re.finditer(kinds, line):
        parts += [re.escape(line[end : match.start()]), patterns[str(match.lastgroup)]]
        end = match.end()
    return re.compile("".join(parts) + re.escape(line[end:]))


def run_page(page: Path, folder: Path) -> None:
    """Run the commands of a page in a folder; each must print the page's lines, in that order."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }
    for command, expected in console_steps(page):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder, env=environment, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        printed = iter(done.stdout.splitlines())
        for line in expected:
            if line == "...":  # any lines, or none
                continue
            pattern = as_pattern(line.rstrip())
            found = any(pattern.fullmatch(other.rstrip()) for other in printed)
            assert found, f"$ {command}\nprinted no line\n{line}\nin this place:\n{done.stdout}"


def test_a_page_that_says_what_is_not_printed_is_found(tmp_path) -> None:
    page = tmp_path / "page.md"
    for printed, is_true in (
        ("2 videos\nAUC 0.9", True),
        ("...\nAUC 0.812", True),
        ("3 videos", False),
        ("AUC 0.9\n2 videos", False),
    ):
        page.write_text(f"```console\n$ echo '2 videos'\n> echo 'AUC   0.75'\n{printed}\n```\n")
        with (
            contextlib.nullcontext() if is_true else pytest.raises(AssertionError, match="no line")
        ):
            run_page(page, tmp_path)
    page.write_text("```console\n$ false | true\n```\n")
    with pytest.raises(AssertionError, match="false"):
        run_page(page, tmp_path)


@pytest.mark.slow
def test_the_howtos_print_what_they_say(tmp_path) -> None:
    make_cache(tmp_path / "features", demo_rows()[:2])
    (tmp_path / "downloaded").mkdir()
    rng = np.random.default_rng(0)
    for name, num_clips in (("door", 12), ("yard", 9)):
        crops = rng.standard_normal((num_clips, 10, 2048), np.float32)
        np.save(tmp_path / "downloaded" / f"{name}_i3d.npy", crops)
    run_page(ROOT / "docs" / "HOWTO.md", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a quarter of an hour has been seen on two very busy cores
def test_the_tutorial_prints_what_it_says(tmp_path) -> None:
    try:
        resolve_weights("rgb")
    except WeightsError as error:
        pytest.skip(f"the published weights cannot be had: {error}")
    run_page(ROOT / "docs" / "TUTORIAL.md", tmp_path)
    with (tmp_path / "intervals.csv").open(newline="") as file:
        found = [(int(row["start_frame"]), int(row["end_frame"])) for row in csv.DictReader(file)]
    assert len(found) == 2
    for (start, end), (first, last) in zip(found, ((67, 115), (145, 195)), strict=True):
        assert max(start, first) < min(end, last), "not where the sample's people run"
    (metrics,) = tmp_path.glob("runs/*/eval/metrics.json")
    assert json.loads(metrics.read_text())["auc"] > 0.9
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")


def feat_commands(page: Path) -> list[str]:
    """Return every `feat ...` of a page's shell blocks and code words, without comments."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    blocks = [body for language, body in fence.findall(text) if language in ("", "console", "sh")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += [" ".join(word.split()) for word in re.findall(r"`(feat [^`]*)`", fence.sub("", text))]
    found = (re.match(r"(?:\$ |.*; do )? *(feat [a-z].*)", line) for line in lines)
    commands = [re.split(r" #|;| && |  +", match[1])[0] for match in found if match]
    return [command for command in commands if not command.startswith(NO_COMMANDS)]


def unknown_words(line: str) -> list[str]:
    """Return the commands and options in a line that `feat` does not know."""
    command: click.Command = cli
    words = line.split()[1:]
    while isinstance(command, click.Group) and words and re.fullmatch("[a-z][a-z0-9-]*", words[0]):
        name = words.pop(0)
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            return [name]
        command = inner
    if isinstance(command, click.Group) and words and words[0].isupper():
        return []  # it stands for several commands
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    known |= {"--help", "--debug"}
    options = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
    return [option for option in options if option not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_and_options_of_a_page_are_there(page: Path) -> None:
    problems = {line: unknown_words(line) for line in feat_commands(page)}
    assert {line: words for line, words in problems.items() if words} == {}


def test_the_table_of_methods_has_every_method() -> None:
    page = (ROOT / "docs" / "EXPERIMENTS.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if not re.search(rf"^\| .*`{name}`.* \|", page, re.M)] == []


def test_a_command_or_option_that_is_gone_is_found() -> None:
    assert unknown_words("feat extract clips --workers 2 --json") == []
    assert unknown_words("feat cache push shared --reread --speed") == ["--speed"]
    assert unknown_words("feat cache shove shared") == ["shove"]
    tutorial = feat_commands(ROOT / "docs" / "TUTORIAL.md")
    assert {"feat train", "feat extract clips", "feat weights fetch --stream rgb"} <= set(tutorial)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_from_outside_the_site_lead_somewhere(name: str) -> None:
    # `make docs` checks those between its pages
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", (ROOT / name).read_text("utf-8"))
    assert links
    for path, anchor in links:
        assert (ROOT / path).is_file(), path
        headings = (
            re.findall(r"^#+ (.*)$", (ROOT / path).read_text("utf-8"), re.M) if anchor else []
        )
        slugs = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not anchor or anchor in slugs, f"{path}#{anchor}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "EXTEND"], ids=lambda page: page.stem
)
def test_the_files_and_names_of_the_code_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"\b((?:extract|model|cache|data|bench)/[\w/]+\.py)\b", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []
    for name, file in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text):
        defined = rf"^(?:def|class) {name}\b|^{name}\b.* = "
        assert re.search(defined, (ROOT / file).read_text("utf-8"), re.M), f"{name} in {file}"
