"""A run's folder: whose it is, what lies in it, and that nothing else is touched."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import common
import linear_gan
import mnist_gan
import numbers_gan

# What a script leaves beside what all leave.
ALL_LEAVE = {
    "samples",
    "checkpoint.pt",
    "metrics.json",
    "losses.png",
    "training.gif",
    "training.png",
}
ALSO = {
    "curve_gan": {"data.png", "new_data.png", "generator.pt2"},
    "numbers_gan": {"new_data.png", "generator.pt2"},
    "mnist_bn_gan": {"generator.pth", "discriminator.pth"},
    "aae_mnist": {"reconstructions.png", "walk.png"},
}
TELLING = {
    "curve_gan": "new_data.png",
    "numbers_gan": "new_data.png",
    "aae_mnist": "walk.png",
}


def read_files(folder):
    """{path: bytes}, but TensorBoard's events are not among them."""
    files = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and "events" not in path.name:
            files[path] = path.read_bytes()
    return files


def test_a_run_leaves_what_it_should(script, whole_run):
    names = set()
    for path in whole_run.folder.iterdir():
        if "events" not in path.name:
            names.add(path.name)
    assert names == ALL_LEAVE | ALSO.get(script.__name__, set())
    text = (whole_run.folder / "metrics.json").read_text()
    metrics = json.loads(text)
    assert metrics["score"] == whole_run.score
    assert metrics["arguments"]["epochs"] == 2
    assert metrics["torch"] == torch.__version__
    assert metrics["seconds"] > 0
    for name in ("loss_D", "loss_G"):
        means = metrics["history"][name]
        assert list(means) == ["1", "2"]
        for mean in means.values():
            assert 0 < mean < 20


def test_the_last_lines_name_every_picture(script, whole_run):
    named = []
    _, _, end = whole_run.output.partition("Look at:\n")
    for line in end.splitlines():
        if line.startswith("  "):
            named.append(Path(line.strip()))
    pictures = set(whole_run.folder.glob("*.png"))
    pictures |= set(whole_run.folder.glob("*.gif"))
    assert set(named) == pictures
    assert named[0].name == TELLING.get(script.__name__, "training.png")
    checkpoint = whole_run.folder / "checkpoint.pt"
    assert f"--generate {checkpoint}" in end


def test_pictures_are_early_and_at_the_end_of_an_epoch(script, whole_run):
    steps = []
    for path in sorted((whole_run.folder / "samples").iterdir()):
        steps.append(int(path.stem.split("_")[-1]))
    wanted = {
        "linear_gan": [0, 3, 6],  # as in the document: no figure within an epoch
        "numbers_gan": [1, 2],
    }
    assert steps == wanted.get(script.__name__, [1, 3, 6])


def test_the_film_and_the_strip(script, whole_run):
    samples = sorted((whole_run.folder / "samples").iterdir())
    different = {path.read_bytes() for path in samples}
    film = Image.open(whole_run.folder / "training.gif")
    assert film.n_frames == len(different)  # two of the same make one
    film.seek(film.n_frames - 1)
    assert film.info["duration"] >= 3000
    strip = Image.open(whole_run.folder / "training.png")
    assert strip.width > 3 * film.width
    assert strip.height == film.height


def test_tensorboard(script, whole_run):
    events = EventAccumulator(str(whole_run.folder)).Reload()
    for name in ("loss_D", "loss_G"):
        scalars = events.Scalars(name.replace("_", "/"))
        means = whole_run.checkpoint["history"][name].values()
        values = [scalar.value for scalar in scalars]
        assert values == pytest.approx(list(means), rel=1e-5)
        assert scalars[-1].step == whole_run.checkpoint["step"]
    assert len(events.Images("samples")) == 2


def test_tensorboard_of_mnist_gan(train_once):
    """As in the document's section 3."""
    events = EventAccumulator(str(train_once(mnist_gan).folder)).Reload()
    images = events.Images("Generated Images")
    assert [image.step for image in images] == [1, 3, 6]
    nodes = events.Graph().node
    names = [node.name for node in nodes]
    assert any("[D]" in name for name in names)
    assert any("[G]" in name for name in names)


def test_folders_are_numbered_and_never_reused(arguments):
    for n in (1, 2, 3):
        assert common.make_folder(arguments()) == Path(f"runs/x/{n}")
    Path("runs/x/2/samples").rmdir()
    assert common.make_folder(arguments()) == Path("runs/x/4")
    shutil.rmtree("runs/x/1")
    assert common.make_folder(arguments()) == Path("runs/x/1")


def test_out_has_to_be_new_or_empty(arguments, refuse):
    out = Path("a/b")
    assert common.make_folder(arguments(out=out)) == out
    status, message = refuse(common.make_folder, arguments(out=out))
    assert status == 1
    assert "a/b is not empty" in message
    Path("empty").mkdir()
    assert common.make_folder(arguments(out=Path("empty"))) == Path("empty")


def test_an_unwritable_place_is_named(arguments, refuse):
    Path("file").touch()
    checkpoint = Path("nowhere/checkpoint.pt")
    places = [
        arguments(out=Path("file")),
        arguments(out=Path("file/below")),
        arguments(resume=checkpoint),
    ]
    for args in places:
        status, message = refuse(common.make_folder, args)
        assert status == 1
        assert message.startswith("error: cannot write there")
    Path("runs").touch()
    status, message = refuse(common.make_folder, arguments())
    assert message.startswith("error: cannot write there")


def test_a_refused_out_is_left_as_it_is(refuse, small_mnist):
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("Dear")
    status, message = refuse(linear_gan.main, "--out mine --max-steps 1")
    assert status == 1
    assert "not empty" in message
    assert list(Path().rglob("*.*")) == [Path("mine/letter.txt")]


def break_writing(monkeypatch):
    """As on a full disk: half of a file is written."""
    write_bytes = Path.write_bytes

    def write_half(path, content):
        write_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)


def test_files_are_written_whole_or_not_at_all(refuse, monkeypatch):
    path = Path("a.bin")
    common.write_whole(path, b"old")
    break_writing(monkeypatch)
    status, message = refuse(common.write_whole, path, b"newer")
    assert status == 1
    assert "cannot write a.bin" in message
    assert "No space left on device" in message
    assert read_files(".") == {path: b"old"}
    refuse(common.write_whole, Path("b.bin"), b"new")
    assert read_files(".") == {path: b"old"}


def test_a_full_disk_leaves_the_last_checkpoint(
    train, train_once, copy_run, refuse, monkeypatch
):
    copy_run(train_once(linear_gan).folder)
    before = read_files("run")
    break_writing(monkeypatch)
    options = "--resume run/checkpoint.pt --epochs 3"
    status, message = refuse(train, linear_gan, options)
    assert status == 1
    assert "No space left" in message
    after = read_files("run")
    for path, content in before.items():
        assert after[path] == content
    for path in after.keys() - before.keys():
        assert path.name.startswith("epoch_00003")


def test_checkpoint_and_film_are_written_whole(train, monkeypatch):
    written = []
    write_whole = common.write_whole

    def note(path, content):
        written.append(path.name)
        write_whole(path, content)

    monkeypatch.setattr(common, "write_whole", note)
    train(linear_gan, "--batch-size 400 --epochs 1")
    wanted = {"checkpoint.pt", "losses.png", "training.gif", "training.png"}
    assert set(written) == wanted


def test_an_unreadable_picture_is_left_out_of_the_film(capsys):
    folder = Path("run/samples")
    folder.mkdir(parents=True)
    for step in (1, 2, 3):
        name = f"epoch_00001_step_000000{step}.png"
        Image.new("RGB", (500, 10), (step, 0, 0)).save(folder / name)
    cut = folder / "epoch_00001_step_0000004.png"
    cut.write_bytes((folder / name).read_bytes()[:20])
    empty = folder / "epoch_00001_step_0000005.png"
    empty.touch()
    (folder / "._epoch_00001_step_0000001.png").write_text("left by macOS")
    (folder / "holiday.png").write_text("somebody's")
    common.make_film(Path("run"))
    assert Image.open("run/training.gif").n_frames == 3
    said = capsys.readouterr().out
    assert f"left out of the film, since it cannot be read: {cut}" in said
    assert str(empty) in said
    assert "holiday" not in said


def test_a_film_of_no_pictures():
    Path("run/samples").mkdir(parents=True)
    common.make_film(Path("run"))
    assert read_files("run") == {}


def test_the_film_is_in_the_order_of_steps_and_thins_out():
    """Also from epoch 100,000 on. Its last picture stays."""
    folder = Path("run/samples")
    folder.mkdir(parents=True)
    reds = {}
    for step in (1, 99_000, 99_500, 100_000, 150_000, 151_000):
        red = 10 * (len(reds) + 1)
        reds[step] = red
        name = f"epoch_{step:05d}_step_{step:07d}.png"
        Image.new("RGB", (500, 10), (red, 0, 0)).save(folder / name)
    frames = common.read_frames(folder)
    seen = [frame.getpixel((0, 0))[0] for frame in frames]
    kept = [1, 99_000, 150_000, 151_000]
    assert seen == [reds[step] for step in kept]
    common.make_film(Path("run"))
    strip = Image.open("run/training.png")
    assert strip.getpixel((0, 0))[0] == reds[1]
    assert strip.getpixel((strip.width - 1, 0))[0] == reds[151_000]


def test_small_pictures_are_doubled_and_get_a_caption(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    frame = common.read_frame(path, "epoch 1, step 1")
    assert frame.width == 40
    assert frame.height > 20


class Console(io.TextIOWrapper):
    """A console that knows only the characters of one encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def read_all(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_need_not_know_the_characters_of_a_path(encoding, train, monkeypatch):
    console = Console(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    train(linear_gan, "--batch-size 500 --max-steps 1 --out 图片")
    linear_gan.main("--generate 图片/checkpoint.pt --out 更多")
    said = console.read_all()
    assert r"Writing to \u56fe\u7247" in said
    assert Path("图片/checkpoint.pt").exists()
    assert Path("更多/samples/generated.png").exists()


def test_a_path_with_spaces_can_be_pasted(small_mnist, capsys):
    linear_gan.main("--batch-size 500 --max-steps 1 --out 'my runs'")
    said = capsys.readouterr().out
    assert "--generate 'my runs/checkpoint.pt' --seed 1" in said


def test_losses_have_one_panel_and_each_other_number_its_own(monkeypatch):
    figures = []

    def keep(figure, path, **how):
        figures.append(figure)

    monkeypatch.setattr(common, "save_figure", keep)
    means = {1: 0.5, 2: 0.4}
    history = {"loss_D": means, "fd": {1: 900.0, 2: 9.0}, "loss_G": means}
    levels = {"fd": {"good": 9}}
    common.plot_history(history, levels, 2, "title", Path("losses.png"))
    losses, fd = figures[0].axes
    assert losses.get_ylabel() == "loss"
    assert fd.get_ylabel() == "fd"
    labels = losses.get_legend_handles_labels()[1]
    assert labels == ["loss_D", "loss_G", "the saved net"]
    labels = fd.get_legend_handles_labels()[1]
    assert labels == ["fd", "good", "the saved net"]
    assert fd.get_yscale() == "log"


def test_two_runs_at_once_have_two_folders(arguments):
    with common.Run(arguments()) as one, common.Run(arguments()) as other:
        assert one.folder != other.folder
        for run in (one, other):
            for _ in run.epochs():
                for _ in run.minibatches(torch.arange(3)):
                    pass


def test_a_checkpoint_is_read_without_code(arguments):
    """As the README shows it."""
    net = nn.Linear(2, 2)
    with common.Run(arguments(out=Path("run")), G=net) as run:
        for _ in run.epochs():
            for _ in run.minibatches(torch.arange(3)):
                pass
    checkpoint = torch.load("run/checkpoint.pt", weights_only=True)
    other = nn.Linear(2, 2)
    other.load_state_dict(checkpoint["parts"]["G"])
    assert other.weight.equal(net.weight)


def test_numbers_gan_has_few_lines(train_once):
    """Not one for each of its many epochs."""
    output = train_once(numbers_gan).output
    assert len(output.splitlines()) < 40
