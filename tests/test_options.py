"""Options: bad ones are refused in one line, and a call is not the command line."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch

import common
import judge
import linear_gan

# Below, run/ holds a run of linear_gan.py.
RESUME = "--resume run/checkpoint.pt"
GENERATE = "--generate run/checkpoint.pt"

# Script, options, a part of the message.
BAD = [
    ("linear_gan", "--batch-size 0", "--batch-size"),
    ("linear_gan", "--batch-size two", "invalid int value"),
    ("linear_gan", "--lr-D nan", "--lr-D"),
    ("linear_gan", "--beta1 1", "--beta1"),
    ("linear_gan", "--epoch 1", "--epoch"),
    ("curve_gan", "--curve circle", "--curve"),
    ("numbers_gan", "--remainder 5", "--remainder"),
    ("mnist_cgan", "--generate x.pt --digits ７", "must be digits"),
    # They would be ignored:
    ("linear_gan", "--n 3", "--n would be ignored"),
    ("linear_gan", "--epochs 3 --max-steps 2", "--epochs"),
    ("linear_gan", f"{RESUME} --out new", "--out"),
    ("linear_gan", f"{RESUME} --lr-D 1", "--lr-D"),
    ("linear_gan", f"{RESUME} {GENERATE}", "--generate"),
    ("linear_gan", f"{GENERATE} --epochs 2", "--epochs"),
    # Files:
    ("linear_gan", "--resume no.pt", "no.pt not found; train first"),
    ("linear_gan", "--generate cut.pt", "cut.pt is damaged"),
    ("linear_gan", "--resume net.pt", "net.pt is damaged, or no checkpoint.pt"),
    ("linear_gan", "--resume run", "run is damaged"),
    ("mnist_gan", RESUME, "is of linear_gan.py, not of mnist_gan.py"),
]


@pytest.fixture
def files(train_once):
    """A good run, and files that are no checkpoints."""
    shutil.copytree(train_once(linear_gan).folder, "run")
    content = Path("run/checkpoint.pt").read_bytes()
    Path("cut.pt").write_bytes(content[:5000])
    torch.save({"weight": torch.zeros(2)}, "net.pt")


@pytest.mark.parametrize(("name", "words", "message"), BAD)
def test_bad_options(name, words, message, files, refuse):
    before = sorted(Path().rglob("*"))
    content = Path("run/checkpoint.pt").read_bytes()
    status, line = refuse(importlib.import_module(name).main, words)
    assert status == 2
    assert line.startswith(f"{name}.py: error: ")
    assert message in line
    assert sorted(Path().rglob("*")) == before
    assert Path("run/checkpoint.pt").read_bytes() == content


def test_a_batch_larger_than_the_data(refuse):
    status, line = refuse(linear_gan.main, "--batch-size 1001")
    assert status == 1
    assert line == "error: --batch-size 1001, but only 1000 rows"


def test_where_it_cannot_write(refuse):
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("Dear")
    places = {"mine": "mine is not empty", "mine/letter.txt/x": "cannot write there"}
    for out, message in places.items():
        _, line = refuse(linear_gan.main, f"--out {out}")
        assert message in line
        assert list(Path().rglob("*.*")) == [Path("mine/letter.txt")]


def test_no_code_of_a_checkpoint_is_run(refuse):
    """torch.load would run it without weights_only."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (Path("trapped"),)

    torch.save({"args": {"script": "linear_gan"}, "trap": Trap()}, "code.pt")
    refuse(linear_gan.main, "--resume code.pt")
    assert not Path("trapped").exists()


# %% What is taken
def test_document_takes_the_documents_settings(script):
    document = vars(script.parse("--document"))
    default = vars(script.parse(""))
    for name in script.DOCUMENT:
        assert document.pop(name) == script.DOCUMENT[name] != default.pop(name)
    del document["document"], default["document"]
    assert document == default
    assert script.parse("--document --epochs 77").epochs == 77  # a given one goes first


def test_resume_keeps_options_and_takes_new_ones(files, capsys):
    args = linear_gan.parse(f"{RESUME} --epochs=7")
    assert args.epochs == 7
    assert args.batch_size == 25
    assert "batch_size: 25, from the checkpoint" in capsys.readouterr().out


def test_options_of_a_call_are_a_string_or_words():
    """A string is split at spaces. Backslashes stay, as Windows has them."""
    for options in (r"--epochs 3 --out C:\a\b", ["--epochs", 3, "--out", r"C:\a\b"]):
        args = linear_gan.parse(options)
        assert args.epochs == 3
        assert str(args.out) == r"C:\a\b"


def test_only_our_command_line_is_ours(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "k.json"])
    assert linear_gan.parse(None).epochs == 30
    monkeypatch.setattr(sys, "argv", [linear_gan.__file__, "--epochs", "3"])
    assert linear_gan.parse(None).epochs == 3


def test_a_script_is_one_cell_of_a_notebook(script):
    """It needs no __file__. Its sections are cells, too."""
    source = Path(script.__file__).read_text(encoding="utf-8")
    cell = {"__name__": "cell"}
    exec(source, cell)  # noqa: S102
    assert cell["parse"](None).script == script.__name__
    assert source.count("\n# %% ") >= 3


# %% What it says
def test_help(script, capsys):
    """It is ASCII, fits on a screen, and shows docstring and defaults."""
    lines = script.__doc__.splitlines()
    assert len(lines) <= 20
    assert len(max(lines, key=len)) <= 78
    with pytest.raises(SystemExit):
        script.main("--help")
    text = capsys.readouterr().out
    assert text.isascii()
    assert script.__doc__.strip() in text
    assert f"(default: {script.parse('').epochs})" in text
    assert "SUPPRESS" not in text


def test_each_score_is_explained(script, whole_run):
    for name, value in whole_run.score.items():
        about = script.ABOUT[name]
        assert f"\n{name}: {value:,.4g} ({about})\n" in whole_run.output


# %% Threads, missing files
def test_a_program_uses_one_thread_or_as_many_as_asked(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    common.use_one_thread()
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    common.use_one_thread()
    assert torch.get_num_threads() == 1


def test_missing_or_damaged_archives_are_named(monkeypatch, tmp_path, refuse):
    Path("MNIST/raw").mkdir(parents=True)
    archive = Path("MNIST/raw/t10k-images-idx3-ubyte.gz")
    monkeypatch.setattr(common, "DATA", tmp_path)
    for _ in range(2):
        _, line = refuse(common.load_mnist, False)
        assert f"{archive.name}: " in line
        archive.write_bytes(b"\x1f\x8b cut")


DIGITS = ["mnist_gan", "mnist_bn_gan", "mnist_cgan", "aae_mnist"]


@pytest.mark.parametrize("script", DIGITS, indirect=True)
def test_a_missing_judge_is_named_before_the_training(script, monkeypatch, train):
    monkeypatch.setattr(judge, "PATH", Path("judge.pt"))
    with pytest.raises(SystemExit, match="error: judge.pt"):
        train(script, "--max-steps 1")
    assert not Path("runs").exists()
