"""Options from `feat.toml` and FEAT_* variables, and `feat config`, which shows them."""

import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cache import FeatureCache
from data.configuration import EVERY, OWN_VARIABLES, walk_commands
from feat import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("FEAT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def feat(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def shown(*words: str) -> dict[str, list[str]]:
    """Return what `feat config` tells: option -> value and source."""
    done = feat("config", *words)
    assert done.exit_code == 0, done.stderr
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("  --")]
    return {name: rest for name, *rest in rows}


def test_command_line_then_variables_then_file_then_default(here, monkeypatch) -> None:
    assert shown("extract")["--clip-len"] == ["16", "default"]
    (here / "feat.toml").write_text("[all]\nclip-len = 4\n")
    assert shown("extract")["--clip-len"] == ["4", "feat.toml [all]"]
    (here / "feat.toml").write_text("[all]\nclip-len = 4\n[extract]\nclip-len = 5\n")
    assert shown("extract")["--clip-len"] == ["5", "feat.toml [extract]"]
    monkeypatch.setenv("FEAT_CLIP_LEN", "6")
    assert shown("extract")["--clip-len"] == ["6", "FEAT_CLIP_LEN"]
    monkeypatch.setenv("FEAT_EXTRACT_CLIP_LEN", "7")
    assert shown("extract")["--clip-len"] == ["7", "FEAT_EXTRACT_CLIP_LEN"]
    assert shown("extract", "--clip-len", "8")["--clip-len"] == ["8", "command line"]


def test_a_command_takes_what_the_file_says_and_says_so(here: Path) -> None:
    FeatureCache.create(here / "mine")
    (here / "feat.toml").write_text('[all]\ncache = "mine"\n')
    done = feat("cache", "info")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "feat.toml sets options: [all]; `feat config` shows them\n"
    assert feat("-q", "cache", "info").stderr == ""
    assert "there" in feat("cache", "info", "--cache", "there").stderr
    # a place that is typed counts before a --cache that is not
    assert "error: there: no feature cache" in feat("cache", "ls", "there").stderr


def test_a_folder_that_is_typed_counts_before_videos_of_the_file(here: Path) -> None:
    for name in ("a", "b"):
        (here / name).mkdir()
    (here / "feat.toml").write_text('[extract]\nvideos = "a"\n')
    assert "a: no video" in feat("extract").stderr
    assert "b: no video" in feat("extract", "b").stderr
    assert "name the folder of videos once" in feat("extract", "b", "--videos", "a").stderr


def test_what_is_shown_can_be_typed(here: Path) -> None:
    done = CliRunner().invoke(cli, ["config", "train", "--n-of-m", "2/3"])
    assert done.exit_code == 0, done.output
    assert re.search(r"--n-of-m +2/3 ", done.stdout)
    done = CliRunner().invoke(cli, ["config", "ablate"])
    assert re.search(r"--k +1,2,3,4,5,6,8 ", done.stdout)


def test_a_list_is_what_a_shell_would_hand_over(here: Path) -> None:
    (here / "feat.toml").write_text(
        '[all]\nstreams = ["rgb", "flow"]\n[cache.push]\noption = ["a=1", "b=2"]\n'
        '[extract]\ncache = "~/features"\n'
    )
    assert shown("train")["--streams"][0] == "rgb,flow"
    assert shown("cache", "push")["--option"] == ["a=1,b=2", "feat.toml [cache.push]"]
    assert shown("extract")["--cache"][0] == str(Path.home() / "features")


def test_the_named_file_counts_instead_of_the_one_here(here: Path) -> None:
    (here / "feat.toml").write_text("[extract]\nclip-len = 4\n")
    (here / "other.toml").write_text("[extract]\nclip-stride = 3\n")
    done = feat("--config-file", "other.toml", "config")
    assert "--clip-stride  3  other.toml [extract]  extract" in done.stdout
    assert "--clip-len" not in done.stdout
    assert feat("--config-file", "none.toml", "config").stderr.startswith("error: none.toml: ")


def test_a_file_beside_videos_is_not_read(here: Path) -> None:
    (here / "clips").mkdir()
    (here / "clips" / "feat.toml").write_text("not TOML\n")
    assert "clips: no video" in feat("extract", "clips").stderr


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives away")
def test_a_file_of_another_user_is_read_only_if_it_is_named(here: Path) -> None:
    (here / "feat.toml").write_text("[extract]\nclip-len = 4\n")
    os.chown(here / "feat.toml", 4242, -1)
    done = feat("config", "extract")
    assert "feat.toml belongs to another user and is not read" in done.stderr
    assert "file: none" in done.stdout
    assert "clip-len       4" in feat("--config-file", "feat.toml", "config", "extract").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cache = 'x'", "cache stands in no table; expected it below [all]"),
        ("[extrat]", "[extrat]: no such command; did you mean [extract]?"),
        ("[nothing-like-it]", "[nothing-like-it]: no such command; one of ablate, all, cache"),
        ("[cache.pusj]", "[cache.pusj]: no such command; did you mean [cache.push]?"),
        ("[cache]\npush = 1", "[cache] push: expected it below one of the group's commands"),
        ("[data.ucf-crme]", "[data.ucf-crme]: no such command; did you mean [data.ucf-crime]?"),
        ("[extract]\nclip-lne = 1", "[extract] clip-lne: no such option; did you mean clip-len"),
        ("[all]\ndevise = 'x'", "[all] devise: no such option; did you mean device?"),
        ("[extract]\nclip_len = 1", "[extract] clip_len: no such option; did you mean clip-len"),
        ("[extract]\nclip-len = 1.5", "[extract] clip-len: '1.5' is not a valid integer."),
        ("[extract]\nclip-len = true", "[extract] clip-len: found True, expected a text or a num"),
        ("[extract]\nclip-len = {a = 1}", "[extract] clip-len: found {'a': 1}, expected a text"),
        ("[extract]\nclip-len = []", "[extract] clip-len: found [], expected a text or a number"),
        ("[extract]\ncache = 3", "[extract] cache: found 3, expected a path"),
        ("[extract]\nresize = 'x'", "[extract] resize: 'x' is not one of 'squash', 'crop'."),
        ("[extract]\nallow-mixed = true", "[extract] allow-mixed: a flag, which stands on the"),
        ("[train]\nmethod = 'knm'", "[train] method: 'knm' is unknown; did you mean knn?"),
        ("[all]\nthreads = 0", "[all] threads: 0 is not in the range x>=1."),
        ("a = [", "not TOML: "),
        ("a = " + "[" * 5000, "not TOML: "),
        ("\xff", "not TOML: "),
        ("#" * (2 << 20), "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_what_is_no_option_is_one_line_before_any_work(here, content, message) -> None:
    (here / "feat.toml").write_bytes(content.encode("latin-1"))
    done = feat("runs", "ls")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: feat.toml: {message}")


def test_config_lists_what_is_set_anywhere_and_variables_that_nobody_reads(monkeypatch) -> None:
    monkeypatch.setenv("FEAT_CACHE", "mine")
    monkeypatch.setenv("FEAT_TRAIN_SEDE", "3")
    monkeypatch.setenv("FEAT_TRAIN_THREADS", "many")
    monkeypatch.setenv("FEAT_USER", "ann")
    text = feat("config").stdout
    assert re.search(r"--cache +mine +FEAT_CACHE +\d\d commands\n", text)
    assert re.search(r"FEAT_TRAIN_SEDE +3 +unknown; did you mean FEAT_TRAIN_SEED\?\n", text)
    assert re.search(r"--threads +many +FEAT_TRAIN_THREADS +train\n", text)
    assert re.search(r"FEAT_USER +ann +who extracted", text)


def test_a_wrong_value_is_told_with_where_it_was_found(here, monkeypatch) -> None:
    (here / "feat.toml").write_text('[extract]\nvideos = "nowhere"\n')
    done = feat("extract")
    assert done.exit_code == 2
    assert "'nowhere' does not exist. (from feat.toml [extract])\n" in done.stderr
    assert done.stderr.count("nowhere") == 1
    monkeypatch.setenv("FEAT_TRAIN_THREADS", "many")
    done = feat("train")
    assert done.exit_code == 2
    assert "'many' is not a valid integer range. (from FEAT_TRAIN_THREADS)\n" in done.stderr
    assert "(from" not in feat("train", "--threads", "many").stderr


def test_no_variable_has_two_meanings() -> None:
    own: dict[str, str] = {}
    shared = set()
    with click.Context(cli) as ctx:
        for words, command in walk_commands(ctx, cli):
            assert words[0] != EVERY
            for option in command.params:
                if isinstance(option, click.Option) and option.name != "debug":
                    name, general = option.envvar
                    assert own.setdefault(name, f"{words} {option.name}").startswith(f"{words}")
                    shared.add(general)
    assert not shared & own.keys()
    assert shared & {*OWN_VARIABLES} == {"FEAT_STALL_SECONDS"}  # extract's option says the same


def test_every_variable_that_the_code_reads_is_listed() -> None:
    sources = [p for d in ("extract", "model", "cache", "data") for p in ROOT.glob(f"{d}/**/*.py")]
    pattern = re.compile(r"""environ(?:\.get\(|\[)["'](FEAT_\w+)""")
    read = {name for path in sources for name in pattern.findall(path.read_text("utf-8"))}
    assert read == {*OWN_VARIABLES} - {"FEAT_SHARED_DATA"}, "which only tests and benchmarks read"
    page = (ROOT / "docs" / "CONFIGURATION.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in OWN_VARIABLES)
