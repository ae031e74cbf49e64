"""The pages name what there is, and say the same in both languages."""

import importlib
import re
from pathlib import Path

import pytest

from test_smoke import SCRIPTS

HERE = Path(__file__).resolve().parent.parent
ENGLISH = ["README.md", "LESSONS.md"]
CHINESE = ["README.zh-CN.md", "LESSONS.zh-CN.md"]


def read(name):
    return (HERE / name).read_text(encoding="utf-8")


@pytest.fixture(params=[0, 1])
def both(request):
    """A page in English and in Chinese."""
    return read(ENGLISH[request.param]), read(CHINESE[request.param])


@pytest.fixture(params=ENGLISH + CHINESE)
def page(request):
    return read(request.param)


def code_blocks(page):
    return re.findall(r"```\w+\n(.*?)```", page, re.DOTALL)


def test_options_exist(page):
    found = 0
    commands = re.findall(r"(\w+)\.py((?: --?[\w-]+(?: [\w./,]+)?)+)", page)
    for script, options in commands:
        if script not in SCRIPTS:
            continue
        args = importlib.import_module(script).parse([])
        for option in re.findall(r"--([\w-]+)", options):
            name = option.removeprefix("no-").replace("-", "_")
            assert name in args, f"{script}.py has no --{option}"
            found += 1
    assert found > 3


def test_pictures_and_files_exist(page):
    paths = re.findall(r"\]\((?!http|#)([^)]+)\)", page)
    paths += re.findall(r'src="([^"]+)"', page)
    assert paths
    for path in paths:
        assert (HERE / path).exists(), path


def test_lines_can_be_pasted(page):
    for block in code_blocks(page):
        for line in block.splitlines():
            assert len(line) <= 80, line


def test_both_languages_have_the_same_pictures_and_papers(both):
    english, chinese = both
    for pattern in (r"\]\((assets[^)]+)\)", r'src="([^"]+)"', r"arXiv (\S+\d)"):
        assert re.findall(pattern, english) == re.findall(pattern, chinese)


def test_both_languages_have_the_same_code(both):
    english, chinese = both
    assert code_without_comments(english) == code_without_comments(chinese)


def code_without_comments(page):
    code = "".join(code_blocks(page))
    return re.sub(r" *#.*", "", code)


def test_both_languages_have_the_same_figures(both):
    english, chinese = both
    assert figures(english) == figures(chinese)


def figures(page):
    """The decimal numbers of a page, sorted. (A whole one may be a word: ten.)"""
    return sorted(re.findall(r"\d+\.\d+", page))


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_first_page_is_short(name):
    assert len(read(name).splitlines()) <= 160


def test_pictures_are_small_and_shown():
    text = read("README.md") + read("LESSONS.md")
    size = 0
    for path in (HERE / "assets").iterdir():
        assert f"assets/{path.name}" in text
        size += path.stat().st_size
    assert size < 2_000_000


def test_lessons_that_scripts_name_exist():
    lessons = re.findall(r"^## (\d+)\. ", read("LESSONS.md"), re.MULTILINE)
    assert len(lessons) == 10
    for script in SCRIPTS:
        for number in re.findall(r"[Ll]esson (\d+)", read(f"{script}.py")):
            assert number in lessons


def test_the_program_of_the_first_page_loads_a_generator(train_once):
    """As pasted, with the path of a run."""
    mnist_gan = importlib.import_module("mnist_gan")
    folder = train_once(mnist_gan).folder
    page = read("README.md")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(program.replace("runs/mnist_gan/1", folder.as_posix()), names)  # noqa: S102
    assert names["images"].shape == (16, 28, 28)
