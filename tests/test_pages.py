"""The pages name what there is, and say the same in both languages."""

import importlib
import re
from pathlib import Path

import pytest

import mnist_gan
from test_smoke import HERE, SCRIPTS

README = ["README.md", "README.zh-CN.md"]
LESSONS = ["LESSONS.md", "LESSONS.zh-CN.md"]


def read(name):
    return (HERE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", README + LESSONS)
def test_options_and_files_exist(name):
    page = read(name)
    commands = re.findall(r"(\w+)\.py((?: --?[\w-]+(?: [\w./,]+)?)+)", page)
    assert len(commands) > 3
    for script, options in commands:
        if script in SCRIPTS:
            args = importlib.import_module(script).parse("")
            for option in re.findall(r"--(?:no-)?([\w-]+)", options):
                assert option.replace("-", "_") in args, f"{script}.py: {option}"
    paths = re.findall(r"\]\((?!http|#)([^)#]+)", page)
    paths += re.findall(r'src="([^"]+)"', page)
    for path in paths:
        assert (HERE / path).exists(), path


SAME = {
    "pictures": r'(?:src="|\]\()(assets[^")]+)',
    "papers": r"arXiv \[?(\d+\.\d+)",
    "figures": r"\d+\.\d+",  # not whole numbers, which may be words: ten
    "lessons": r"(?m)^## (\d+)\. ",
    "code": r"(?s)```(?:sh|powershell|python)\n(.*?)```",
}


@pytest.mark.parametrize("what", SAME)
@pytest.mark.parametrize("names", [README, LESSONS])
def test_both_languages_have_the_same(what, names):
    english, chinese = names
    assert find(SAME[what], english) == find(SAME[what], chinese)


def find(pattern, name):
    found = []
    for text in re.findall(pattern, read(name)):
        found.append(re.sub(r" *#.*", "", text))  # comments are translated
    return sorted(found)


def find_python(name, wanted):
    """The block of Python that holds this."""
    for block in re.findall(r"(?s)```python\n(.*?)```", read(name)):
        if wanted in block:
            return block
    return pytest.fail(f"there is no Python with {wanted}")


@pytest.mark.parametrize("name", README)
def test_the_first_page(name, train_once):
    """It shows lines of mnist_gan.py, and a program that loads a generator."""
    assert len(read(name).splitlines()) <= 230
    source = Path(mnist_gan.__file__).read_text(encoding="utf-8")
    for line in find_python(name, "loss_D.backward()").splitlines():
        assert line in source
    program = find_python(name, "torch.load")
    assert "runs/mnist_gan/1" in program
    names = {}
    folder = train_once(mnist_gan).folder.as_posix()
    exec(program.replace("runs/mnist_gan/1", folder), names)  # noqa: S102
    assert names["images"].min() < 0 < names["images"].max()


def test_pictures_are_small_and_shown():
    size = 0
    for path in (HERE / "assets").iterdir():
        assert f"assets/{path.name}" in read("README.md") + read("LESSONS.md")
        size += path.stat().st_size
    assert size <= 3_000_000


def test_lessons_that_scripts_name_exist():
    lessons = find(SAME["lessons"], "LESSONS.md")
    for script in SCRIPTS:
        for number in re.findall(r"[Ll]esson (\d+)", read(f"{script}.py")):
            assert number in lessons
