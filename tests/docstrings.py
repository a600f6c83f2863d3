"""What the docstring of a function says of its arguments."""

import inspect
import re


def text_of(function, keyword):
    """The whole entry of an argument, on one line."""
    doc = inspect.getdoc(function)
    found = re.search(rf"^    {keyword}: (.*\n(?:        .*\n)*)", doc + "\n", re.M)
    assert found, f"{function.__name__} does not explain {keyword}"
    return " ".join(found[1].split())


def sentence_of(function, keyword):
    """Its first sentence."""
    return re.match(r".*?\.(?= |$)", text_of(function, keyword))[0]
