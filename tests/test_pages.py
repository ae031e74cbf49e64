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


def find_anchors(name):
    """What GitHub makes of headings: small letters, no signs, hyphens for spaces."""
    anchors = []
    for heading in re.findall(r"(?m)^#+ (.+)", read(name)):
        text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)  # of a link
        anchors.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("name", README + LESSONS)
def test_options_files_and_headings_exist(name):
    page = read(name)
    commands = re.findall(r"(\w+)\.py((?: --?[\w-]+(?: [\w./,]+)?)+)", page)
    assert len(commands) > 3
    for script, options in commands:
        if script in SCRIPTS:
            args = importlib.import_module(script).parse("")
            for option in re.findall(r"--(?:no-)?([\w-]+)", options):
                assert option.replace("-", "_") in args, f"{script}.py: {option}"
    links = re.findall(r'(?:\]\(|src="|href=")(?!http)([^)"#]*)#?([^)"]*)', page)
    for path, anchor in links:
        assert (HERE / path).exists(), path
        if anchor:
            assert anchor in find_anchors(path or name), f"{path}#{anchor}"


@pytest.mark.parametrize("name", [*README, *LESSONS, *SCRIPTS])
def test_lessons_that_are_named_exist(name):
    lessons = re.findall(r"(?m)^## (\d+)\. ", read("LESSONS.md"))
    text = read(name if name.endswith(".md") else f"{name}.py")
    for number in re.findall(r"[Ll]esson (\d+)|第 ?(\d+) ?课", text):
        assert "".join(number) in lessons


SAME = {
    "pictures": r'(?:src="|\]\()(assets[^")]+)',
    "figures": r"\d+\.\d+",  # not whole numbers, which may be words: ten
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


def test_code_of_the_first_page(train):
    """It shows lines of mnist_gan.py, and a program that loads a generator."""
    train(mnist_gan, "--max-steps 1")  # to runs/mnist_gan/1
    source = Path(mnist_gan.__file__).read_text(encoding="utf-8")
    lines, program = re.findall(r"(?s)```python\n(.*?)```", read("README.md"))[:2]
    for line in lines.splitlines():
        assert line in source
    names = {}
    exec(program, names)  # noqa: S102
    assert names["images"].min() < 0 < names["images"].max()
