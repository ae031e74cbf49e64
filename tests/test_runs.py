"""A run: its folder, its checkpoint, going on, drawing; stopped is as never stopped."""

import json
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets

import common
import curve_gan
import judge
import linear_gan
import mnist_bn_gan
import mnist_cgan
import numbers_gan

PATH = Path("run/checkpoint.pt")
LEAVES = ["checkpoint.pt", "metrics.json", "losses.png", "training.gif"]
LEAVES += ["training.png", "samples"]
PICTURES = ["training.png", "real.png"]
ALSO = {  # the telling picture first
    "linear_gan": ["training.png"],
    "curve_gan": ["new_data.png", "data.png", "generator.pt2"],
    "numbers_gan": ["new_data.png", "generator.pt2"],
    "mnist_gan": [*PICTURES, "events.out"],  # of TensorBoard
    "mnist_bn_gan": [*PICTURES, "generator.pth", "discriminator.pth"],
    "aae_mnist": ["walk.png", "reconstructions.png"],
}
# Steps; five or four are an epoch.
DRAWN = {"linear_gan": [0, 4, 8, 16, 20], "numbers_gan": [1, 10, 30, 100]}
DRAWN |= {"curve_gan": [5, 25], "aae_mnist": [1, 5, 7, 10, 14, 15, 20, 21, 25]}


def test_what_a_run_leaves_and_says(script, whole):
    names = set()
    also = ALSO.get(script.__name__, PICTURES)
    for path in whole.folder.iterdir():
        names.add(path.name.partition(".tfevents.")[0])
        if path.suffix in (".png", ".gif") and path.stem != "data":
            assert f"\n{path}\n" in whole.output
    assert names == {*LEAVES, *also}
    assert f"Look at:\n{whole.folder / also[0]}\n" in whole.output
    for name, value in whole.score.items():
        about = script.ABOUT[name]
        assert f"\n{name}: {value:,.4g} ({about})\n" in whole.output
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert metrics["score"] == whole.score


def test_steps_that_are_drawn(script, whole):
    steps = []
    for path in (whole.folder / "samples").iterdir():
        steps.append(int(path.stem.removeprefix("step_")))
    assert sorted(steps) == DRAWN.get(script.__name__, [1, 5, 10, 15, 20, 25])


def test_film_and_strip_are_in_the_order_of_steps():
    """Pictures of other names are left out, and those that Ctrl-C has cut."""
    folder = Path("run/samples")
    folder.mkdir(parents=True)
    for red, step in enumerate([0, 2, 8, 9, 30, 31, 100]):
        picture = Image.new("RGB", (9, 9), (20 * red, 0, 0))
        picture.save(folder / f"step_{step:08d}.png")
    picture.save(folder / "step_00000100 (1).png")
    (folder / "step_00000101.png").write_bytes(b"cut")
    common.make_film(Path("run"))
    assert Image.open("run/training.gif").n_frames == 7
    strip = Image.open("run/training.png").getpixel
    reds = [strip(corner)[0] for corner in [(20, 20), (49, 20), (20, 49), (49, 49)]]
    assert reds == [0, 40, 80, 120]  # of steps 0, 8, 30, 100


# %% Nothing is overwritten
def test_folders_are_new_or_empty(parse, refuse, monkeypatch):
    for n in (1, 2, 3):
        assert common.Run(parse()).folder == Path(f"runs/conftest/{n}")
    Path("empty").mkdir()
    assert common.Run(parse("--out empty")).folder == Path("empty")
    line = refuse(common.Run, parse("--out empty"))
    assert "empty is not empty" in line
    line = refuse(common.Run, parse("--out empty/checkpoint.pt/x"))
    assert "cannot write there" in line
    found = [Path("runs/conftest/3"), Path("runs/conftest/4")]  # 3 was free before
    monkeypatch.setattr(common, "next_path", Mock(side_effect=found))
    assert common.Run(parse()).folder == Path("runs/conftest/4")


def test_a_full_disk_leaves_the_last_checkpoint(train, monkeypatch):
    train(linear_gan, "--max-steps 1 --out run")
    before = PATH.read_bytes()

    def save_half(content, path):
        Path(path).write_bytes(before[:99])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="No space left"):
        train(linear_gan, "--resume run/checkpoint.pt --max-steps 1")
    assert PATH.read_bytes() == before


# %% Damage
def flip_bits(path):
    """Yield the file's content with one bit flipped, in the middle of each record."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            data = archive.read(record)
            place = content.index(data, record.header_offset) + len(data) // 2
            flipped = bytes([content[place] ^ 1])
            yield content[:place] + flipped + content[place + 1 :]


def test_one_flipped_bit_is_seen(train_once, refuse, monkeypatch):
    bad = Path("bad.pt")
    monkeypatch.setattr(judge, "PATH", bad)
    for content in flip_bits(train_once(linear_gan).checkpoint):
        bad.write_bytes(content)
        line = refuse(linear_gan.main, "--generate bad.pt")
        assert "bad.pt is damaged" in line
    for content in flip_bits(common.DATA / "judge.pt"):
        bad.write_bytes(content)
        line = refuse(judge.load)
        assert "bad.pt: BadZipFile. Make it: python judge.py" in line


DIGITS = ["mnist_gan", "mnist_bn_gan", "mnist_cgan", "aae_mnist"]


@pytest.mark.parametrize("script", DIGITS, indirect=True)
def test_missing_files_end_before_the_training(script, monkeypatch, train, tmp_path):
    """The judge; then MNIST, cut short, or missing where there is no network."""
    fail = Mock(side_effect=OSError("no network"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="judge.pt"):
        patch.setattr(judge, "PATH", Path("judge.pt"))
        train(script, "--max-steps 1")
    monkeypatch.setattr(datasets, "MNIST", datasets.MNIST.__base__)  # the real one
    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", fail)
    raw = common.DATA / "MNIST/raw"
    monkeypatch.setattr(common, "DATA", tmp_path)
    with pytest.raises(OSError, match="no network"):
        script.main("--max-steps 1")
    for path in raw.iterdir():
        Path("MNIST/raw", path.name).write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Exception, match="."):
        script.main("--max-steps 1")
    assert not Path("runs").exists()


# %% Going on
RESUME = f"--resume {PATH}"


log = common.Run.log


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def log_and_stop(run, **values):
    """Ctrl-C in epoch 2."""
    log(run, **values)
    if run.epoch == 1:
        raise KeyboardInterrupt


def test_resumed_run(script, whole, train, capsys):
    """Ctrl-C in epoch 2; then all the rest."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(common.Run, "log", log_and_stop)
        train(script, f'{whole.options} --out "my run"')
    said = capsys.readouterr().out
    _, go_on = said.split(f"Stopped after epoch 1. Go on: python {script.__name__}.py")
    assert Path("my run/losses.png").exists()  # it draws, also after Ctrl-C
    torch.manual_seed(5)  # to be forgotten
    train(script, go_on)
    assert "Going on after epoch 1\n" in capsys.readouterr().out
    content = common.load(Path("my run/checkpoint.pt"))
    for name in ("parts", "random"):
        assert_same(content[name], whole.content[name])
    for name in ("args", "epoch", "step", "history"):
        assert content[name] == whole.content[name]
    for path in (whole.folder / "samples").iterdir():
        assert Path("my run/samples", path.name).read_bytes() == path.read_bytes()


def test_max_steps_counts_as_an_epoch(train):
    """The quick try does not say how long --resume trains."""
    train(linear_gan, "--batch-size 100 --max-steps 4 --out run")
    train(linear_gan, f"{RESUME} --max-steps 4")
    assert common.load(PATH)["epoch"] == 2
    assert linear_gan.parse(RESUME).epochs == linear_gan.parse("").epochs


# %% Stopping early
def test_early_stop_keeps_the_best_net(train, monkeypatch, capsys):
    """A run that has stopped trains on only with more patience."""
    plot = Mock()
    monkeypatch.setattr(curve_gan, "worst", Mock(side_effect=[3, 1, 1, 4, 5, 6, 7, 8]))
    monkeypatch.setattr(curve_gan, "plot_data", plot)
    train(curve_gan, "--batch-size 1000 --out run --epochs 2 --patience 3")
    parts = common.load(PATH)["parts"]
    assert parts["D"]["0.unit"].equal(curve_gan.get_units("exponential")[1])

    score = train(curve_gan, f"{RESUME} --epochs 20")
    stopped = common.load(PATH)
    assert stopped["epoch"] == 5
    assert_same(stopped["parts"]["best_G"], parts["G"])
    *_, title, kept = plot.call_args_list[-2].args
    assert title == "kept: epoch 2"
    assert "Stopped: no progress for 3 epochs (--patience)" in capsys.readouterr().out

    assert train(curve_gan, RESUME) == score
    train(curve_gan, f"{RESUME} --patience 6")
    content = common.load(PATH)
    assert content["epoch"] == 8
    assert_same(content["parts"]["best_G"], parts["G"])
    assert_same(plot.call_args_list[-2].args[-1], kept)


def test_early_stop_of_numbers_gan(train, monkeypatch):
    """It looks each hundred epochs, or, as the document, each; also when it goes on."""

    monkeypatch.setattr(numbers_gan, "variation", Mock(return_value=0.5))
    monkeypatch.setattr(numbers_gan, "distance", Mock(return_value=0.5))
    train(numbers_gan, "--patience 2 --epochs 200 --out run")
    score = train(numbers_gan, f"{RESUME} --epochs 1000")
    assert common.load(PATH)["epoch"] == 300
    assert train(numbers_gan, f"{RESUME} --epochs 1000") == score
    assert common.load(PATH)["epoch"] == 300
    train(numbers_gan, "--watch remainder --patience 4 --out numbers")
    assert common.load(Path("numbers/checkpoint.pt"))["epoch"] == 5


def test_the_documents_stop_saves_the_last_net(train, monkeypatch):

    monkeypatch.setattr(curve_gan, "performance", Mock(return_value=torch.tensor(0.5)))
    train(curve_gan, "--batch-size 1000 --out run --watch error --patience 2")
    content = common.load(PATH)
    assert content["epoch"] == 3
    assert_same(content["parts"]["best_G"], content["parts"]["G"])


# %% Drawing, and use in other programs
@pytest.fixture
def generate(monkeypatch):
    """A function: it draws into a new folder. Returns what a net is given and makes."""
    calls = []
    call = nn.Module.__call__

    def note(net, *inputs):
        assert not net.training  # batch norm would mix the samples
        output = call(net, *inputs)
        calls.append((inputs, output))  # the whole net comes last
        return output

    monkeypatch.setattr(nn.Module, "__call__", note)

    def draw(script, path, *words):
        script.main(["--generate", path, "--out", f"more{len(calls)}", *words])
        return calls[-1]

    return draw


def test_generate_uses_options_and_the_saved_net(script, whole, generate):
    """By the options of the run, as --n and --seed say."""
    path = whole.checkpoint
    (noise, *_), first = generate(script, path, "--n", 40)
    assert [noise.mean(), noise.std()] == pytest.approx([0, 1], abs=0.3)
    assert len(first) == (400 if script is mnist_cgan else 40)  # of each digit
    assert not generate(script, path, "--n", 40, "--seed", 4)[1].equal(first)
    parts = whole.content["parts"]
    for name in list(parts):
        if f"average_{name}" in parts or f"best_{name}" in parts:
            parts = parts | {name: None}  # it is not needed
    torch.save(whole.content | {"parts": parts}, "less.pt")
    assert generate(script, "less.pt", "--n", 40)[1].equal(first)


def test_digits_of_mnist_cgan(train_once, generate):
    path = train_once(mnist_cgan).checkpoint
    (_, labels), _ = generate(mnist_cgan, path, "--digits", "2026")
    assert labels.tolist() == 3 * [2, 0, 2, 6]


EXPORTED = [("curve_gan", "best_G"), ("numbers_gan", "average_G")]


@pytest.mark.parametrize(("script", "name"), EXPORTED, indirect=["script"])
def test_exported_generators(whole, name):
    """They take any number of rows, and give what the saved net gives."""
    program = torch.export.load(whole.folder / "generator.pt2").module()
    for n in (1, 9):
        noise = torch.randn(n, whole.nets[name][0].in_features)
        torch.testing.assert_close(program(noise), whole.nets[name](noise))


def test_generator_of_mnist_bn_gan(train_once):
    whole = train_once(mnist_bn_gan)
    state = torch.load(whole.folder / "generator.pth", weights_only=True)
    assert_same(state, whole.content["parts"]["average_G"])
