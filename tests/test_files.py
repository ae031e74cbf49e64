"""A run's folder: what lies in it, whole or not at all, and nothing else is touched."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import common
import linear_gan
import mnist_gan

ALL_LEAVE = ["checkpoint.pt", "metrics.json", "losses.png", "training.gif"]
ALL_LEAVE += ["training.png", "samples"]
ALSO = {  # the telling picture first
    "curve_gan": ["new_data.png", "data.png", "generator.pt2"],
    "numbers_gan": ["new_data.png", "generator.pt2"],
    "mnist_bn_gan": ["training.png", "generator.pth", "discriminator.pth"],
    "aae_mnist": ["walk.png", "reconstructions.png"],
}


def test_a_run_leaves_what_all_leave(script, whole_run):
    folder = whole_run.folder
    for name in ALL_LEAVE:
        assert (folder / name).exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["score"] == whole_run.score
    assert metrics["arguments"]["epochs"] == 2
    assert list(metrics["history"]["loss_G"]) == ["1", "2"]


@pytest.mark.parametrize("script", ALSO, indirect=True)
def test_a_run_also_leaves(script, whole_run):
    folder = whole_run.folder
    also = ALSO[script.__name__]
    names = {path.name for path in folder.iterdir()}
    assert names == {*ALL_LEAVE, *also}
    assert f"Look at:\n  {folder / also[0]}\n" in whole_run.output


def test_the_last_lines_name_every_picture(script, whole_run):
    output = whole_run.output
    for path in whole_run.folder.iterdir():
        if path.suffix in (".png", ".gif") and path.stem != "data":
            assert f"  {path}\n" in output
    assert f'--generate "{whole_run.path}" --seed 1' in output
    assert len(output.splitlines()) < 25  # not one for each step


def test_the_film_has_all_pictures(script, whole_run):
    different = set()  # (two of the same make one frame)
    for path in whole_run.folder.glob("samples/*"):
        different.add(path.read_bytes())
    film = Image.open(whole_run.folder / "training.gif")
    assert film.n_frames == len(different)
    film.seek(film.n_frames - 1)
    assert film.info["duration"] >= 3000


def test_film_and_strip_are_in_the_order_of_steps():
    folder = Path("run/samples")
    folder.mkdir(parents=True)
    for red, step in enumerate([0, 2, 8, 9, 30, 31, 100]):
        picture = Image.new("RGB", (9, 9), (20 * red, 0, 0))
        picture.save(folder / f"step_{step:08d}.png")
    common.make_film(Path("run"))
    assert Image.open("run/training.gif").n_frames == 7
    strip = Image.open("run/training.png")
    corners = [(0, 0), (37, 0), (0, 37), (37, 37)]
    reds = [strip.getpixel(corner)[0] for corner in corners]
    assert reds == [20, 40, 80, 120]  # of steps 2, 8, 30, 100


def test_four_different_pictures():
    four = common.choose_four
    assert four([5]) == [5]
    assert four([0, 1]) == [0, 1]
    assert four([0, 20, 40, 60, 80, 100]) == [0, 20, 40, 100]


def test_losses_have_a_panel_for_each_number(monkeypatch):
    panels = []

    def keep(figure, path):
        panels.extend(figure.axes)

    monkeypatch.setattr(common.Figure, "savefig", keep)
    history = {"loss": {1: 0.5, 2: 0.4}, "fd": {1: 900.0, 2: 9.0}}
    common.plot_history(history, {"fd": {"good": 9}}, "losses.png")
    loss, fd = panels
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.4]]
    assert fd.get_legend_handles_labels()[1] == ["fd", "good"]


def test_tensorboard(train_once):
    """As in section 3 of document 2."""
    whole = train_once(mnist_gan)
    events = EventAccumulator(str(whole.folder)).Reload()
    for name in ("loss_D", "loss_G"):
        means = whole.checkpoint["history"][name]
        scalars = events.Scalars(name.replace("_", "/"))
        assert [scalar.step for scalar in scalars] == [1, 2]
        assert scalars[1].value == pytest.approx(means[2], rel=1e-5)
    assert len(events.Images("Generated Images")) == 2


# %% Nothing is overwritten
def test_folders_are_new_or_empty(parse, refuse):
    for n in (1, 2, 3):
        assert common.Run(parse()).folder == Path(f"runs/x/{n}")
    Path("empty").mkdir()
    assert common.Run(parse("--out empty")).folder == Path("empty")
    _, line = refuse(common.Run, parse("--out empty"))
    assert "empty is not empty" in line


def test_a_full_disk_leaves_the_last_checkpoint(train, options, monkeypatch):
    train(linear_gan, f"{options} --epochs 1 --out run")
    checkpoint = Path("run/checkpoint.pt")
    before = checkpoint.read_bytes()

    def save_half(content, path):
        Path(path).write_bytes(before[:99])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="No space left"):
        train(linear_gan, f"--resume {checkpoint} --epochs 2")
    assert checkpoint.read_bytes() == before


def test_what_could_not_be_read_is_not_saved(parse, read_checkpoint):
    """torch.load refuses a Path, for instance."""
    args = parse("--out run")
    run = common.Run(args)
    args.data = Path("images")
    with pytest.raises(Exception, match="weights_only"):
        run.end_epoch(1)
    assert read_checkpoint("run")["epoch"] == 0
