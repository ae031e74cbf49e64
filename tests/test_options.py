"""Options: bad ones are refused in one line, and a call is not the command line."""

import importlib
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

import common
import linear_gan
import mnist_gan

# Below, run/ holds a run of linear_gan.py.
RESUME = "--resume run/checkpoint.pt"
GENERATE = "--generate run/checkpoint.pt"

# Script, options, a word in the message.
BAD = [
    ("linear_gan", "--batch-size 0", "--batch-size"),
    ("linear_gan", "--batch-size 1001", "--batch-size"),
    ("linear_gan", "--batch-size two", "--batch-size"),
    ("curve_gan", "--batch-size 2049", "--batch-size"),
    ("mnist_gan", "--batch-size 60001", "--batch-size"),
    ("mnist_bn_gan", "--batch-size 1", "--batch-size"),
    ("mnist_cgan", "--batch-size 1", "--batch-size"),
    ("aae_mnist", "--batch-size 1", "--batch-size"),
    ("linear_gan", "--epochs 0", "--epochs"),
    ("linear_gan", "--epochs -1", "--epochs"),
    ("linear_gan", "--max-steps 0", "--max-steps"),
    ("linear_gan", "--seed -1", "--seed"),
    ("linear_gan", "--seed 99999999999999999999", "--seed"),
    ("linear_gan", "--device tpu", "--device"),
    ("linear_gan", "--lr-D 0", "--lr-D"),
    ("linear_gan", "--lr-D nan", "--lr-D"),
    ("linear_gan", "--lr-G inf", "--lr-G"),
    ("linear_gan", "--beta1 1", "--beta1"),
    ("linear_gan", "--beta1 nan", "--beta1"),
    ("linear_gan", "--weight-decay -0.1", "--weight-decay"),
    ("linear_gan", "--sead 1", "--sead"),
    ("linear_gan", "--epoch 1", "--epoch"),
    ("curve_gan", "--curve circle", "--curve"),
    ("curve_gan", "--dropout 1", "--dropout"),
    ("curve_gan", "--patience 0", "--patience"),
    ("curve_gan", "--watch fd", "--watch"),
    ("numbers_gan", "--multiple 100", "--multiple"),
    ("numbers_gan", "--remainder 5", "--remainder"),
    ("numbers_gan", "--remainder 100", "--remainder"),
    ("aae_mnist", "--adversarial 1", "--adversarial"),
    ("aae_mnist", "--latent-dim 0", "--latent-dim"),
    # They would be ignored:
    ("linear_gan", "--n 3", "--n"),
    ("mnist_cgan", "--digits 7", "--digits"),
    ("linear_gan", f"{RESUME} --n 3", "--n"),
    ("linear_gan", f"{RESUME} --out new", "--out"),
    ("linear_gan", f"{RESUME} --seed 5", "--seed"),
    ("linear_gan", f"{RESUME} --batch-size 5", "--batch-size"),
    ("linear_gan", f"{RESUME} --lr-D=0.5", "--lr-D"),
    ("linear_gan", f"{RESUME} --document", "--document"),
    ("linear_gan", f"{RESUME} {GENERATE}", "--generate"),
    ("linear_gan", f"{GENERATE} --epochs 2", "--epochs"),
    ("linear_gan", f"{GENERATE} --max-steps 2", "--max-steps"),
    ("linear_gan", f"{GENERATE} --lr-D=1", "--lr-D"),
    ("linear_gan", f"{GENERATE} --n 0", "--n"),
    # Files:
    ("linear_gan", "--resume no.pt", "no.pt not found"),
    ("linear_gan", "--generate no.pt", "no.pt not found"),
    ("linear_gan", "--resume cut.pt", "cut.pt is damaged"),
    ("linear_gan", "--generate cut.pt", "cut.pt is damaged"),
    ("linear_gan", "--resume code.pt", "code.pt is damaged"),
    ("linear_gan", "--resume net.pt", "net.pt is damaged, or no checkpoint.pt"),
    ("linear_gan", "--resume run", "run is damaged"),
    ("mnist_gan", RESUME, "is of linear_gan.py, not of mnist_gan.py"),
    ("aae_mnist", GENERATE, "is of linear_gan.py, not of aae_mnist.py"),
]
WITH_AVERAGE = ["numbers_gan", "mnist_gan", "mnist_bn_gan", "mnist_cgan", "aae_mnist"]
DIGITS = ["7.5", "-7", "seven", "七"]


@pytest.fixture
def files(train_once, copy_run):
    """A good run, and files that are no checkpoints."""
    copy_run(train_once(linear_gan).folder)
    content = Path("run/checkpoint.pt").read_bytes()
    Path("cut.pt").write_bytes(content[:5000])
    torch.save({"args": {"script": "linear_gan"}, "epoch": Path()}, "code.pt")
    torch.save({"weight": torch.zeros(2)}, "net.pt")


def read_files():
    files = {}
    for path in Path().rglob("*"):
        if path.is_file():
            files[path] = path.read_bytes()
    return files


@pytest.mark.parametrize(("name", "options", "word"), BAD)
def test_bad_input(name, options, word, request, refuse):
    if ".pt" in options or "run" in options:
        request.getfixturevalue("files")
    before = read_files()
    script = importlib.import_module(name)
    status, line = refuse(script.main, options)
    assert status == 2
    assert line.startswith(f"{name}.py: error: ")
    assert word in line
    assert read_files() == before


@pytest.mark.parametrize("digits", DIGITS)
def test_bad_digits(digits, refuse):
    script = importlib.import_module("mnist_cgan")
    status, line = refuse(script.main, f"--generate x.pt --digits={digits}")
    assert status == 2
    assert "must be digits" in line


def test_one_digit_is_no_number():
    mnist_cgan = importlib.import_module("mnist_cgan")
    assert mnist_cgan.list_digits("2026") == [2, 0, 2, 6]
    assert mnist_cgan.list_digits("007") == [0, 0, 7]


def test_no_code_of_a_checkpoint_is_run(refuse):
    """torch.load would run it without weights_only."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (Path("trapped"),)

    torch.save({"args": {"script": "linear_gan"}, "trap": Trap()}, "code.pt")
    refuse(linear_gan.main, "--resume code.pt")
    refuse(linear_gan.main, "--generate code.pt")
    assert not Path("trapped").exists()


def test_document_takes_the_documents_settings(script):
    document = vars(script.parse("--document"))
    default = vars(script.parse(""))
    for name, value in script.DOCUMENT.items():
        assert document[name] == value
        assert default[name] != value
    for name, value in default.items():
        if name not in script.DOCUMENT and name != "document":
            assert document[name] == value


def test_a_given_option_goes_before_the_documents():
    args = mnist_gan.parse("--document --lr-G 0.5")
    assert args.lr_G == 0.5
    assert args.lr_D == mnist_gan.DOCUMENT["lr_D"]


@pytest.mark.parametrize("script", WITH_AVERAGE, indirect=True)
def test_document_averages_nothing(script, train, read_checkpoint, monkeypatch):
    """Then what is drawn, judged and saved is the net itself."""
    monkeypatch.setattr(common, "update_average", None)
    train(script, "--document --max-steps 1 --out run")
    parts = read_checkpoint("run")["parts"]
    for name, average in parts.items():
        if name.startswith("average_"):
            net = parts[name.removeprefix("average_")]
            torch.testing.assert_close(average, net, rtol=0, atol=0)


def test_resume_keeps_options_and_takes_new_ones(train_once, copy_run):
    copy_run(train_once(linear_gan).folder)
    args = linear_gan.parse(f"{RESUME} --epochs 7")
    assert args.epochs == 7
    assert args.batch_size == 400
    args = linear_gan.parse(GENERATE)
    assert args.batch_size == 400
    assert args.n == 100


def test_options_of_a_call_are_a_string_or_words():
    for options in ("--epochs 3 --lr-D 0.5", ["--epochs", 3, "--lr-D", 0.5]):
        args = linear_gan.parse(options)
        assert args.epochs == 3
        assert args.lr_D == 0.5
    args = linear_gan.parse("--out 'my runs'")
    assert args.out == Path("my runs")


def test_main_returns_the_score(small_mnist):
    score = linear_gan.main("--batch-size 400 --max-steps 5")
    assert score["wasserstein_2"] > 0


COMMAND_LINES = [
    ["/x/ipykernel_launcher.py", "-f", "/x/kernel.json"],
    ["/x/xpython_launcher.py", "-f", "/x/kernel.json"],
    ["/x/pydevconsole.py", "--mode=client", "--port=5"],
    ["-c", "an option of somebody's program"],
    ["-m", "--somebodys-option"],
    [""],
]


@pytest.mark.parametrize("words", COMMAND_LINES)
def test_somebody_elses_command_line_is_not_ours(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    assert linear_gan.parse(None).epochs == 30


def test_a_script_is_one_cell_of_a_notebook(script, source, monkeypatch):
    """It needs no __file__. Its sections are cells, too."""
    monkeypatch.setattr(sys, "argv", COMMAND_LINES[0])
    cell = {"__name__": "cell"}
    exec(source, cell)  # noqa: S102
    args = cell["parse"](None)
    assert args.script == script.__name__
    assert source.count("\n# %% ") >= 3


def test_a_cell_trains(monkeypatch):
    """With no options at all. Here, the run is short."""
    monkeypatch.setattr(sys, "argv", COMMAND_LINES[1])
    source = Path(linear_gan.__file__).read_text(encoding="utf-8")
    source = source.replace("epochs=30, batch_size=8", "epochs=1, batch_size=500")
    exec(source, {"__name__": "__main__"})  # noqa: S102
    assert Path("runs/linear_gan/1/training.gif").exists()


def test_a_copy_prints_its_own_commands(monkeypatch, capsys):
    """Its name may hold a space."""
    shutil.copy(linear_gan.__file__, "my gan.py")
    options = ["--batch-size", "500", "--max-steps", "1"]
    monkeypatch.setattr(sys, "argv", ["my gan.py", *options])
    runpy.run_path("my gan.py", run_name="__main__")
    assert "python 'my gan.py' --generate runs" in capsys.readouterr().out


def test_threads_are_the_callers_choice(monkeypatch, small_mnist):
    """main does not set them."""
    monkeypatch.setattr(torch, "set_num_threads", None)
    linear_gan.main("--batch-size 500 --max-steps 1")


def test_damaged_archives_are_named(monkeypatch, tmp_path, refuse):
    name = "t10k-images-idx3-ubyte.gz"
    folder = Path("MNIST/raw")
    folder.mkdir(parents=True)
    monkeypatch.setattr(common, "DATA", tmp_path)
    status, message = refuse(common.load_mnist, False)
    assert status == 1
    assert name in message
    Path(folder, name).write_bytes(b"\x1f\x8b cut")
    status, message = refuse(common.load_mnist, False)
    assert name in message
