"""Draw the pictures of docs/gallery.md by the code that stands there: `python docs/gallery.py`.

Each block runs after those before it. What its last line gives is saved as the picture that follows the block.
"""

import argparse
import ast
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n!\[[^]]*\]\(([^)]+)\))?", re.S)
REDUCED = {
    "epochs=60": "epochs=2",
    "epochs=200": "epochs=2",
    '"compare_every": 20, "compare_rows": 40': '"compare_every": 1, "compare_rows": 3',
    "[:200]": "[:12]",
    "data.test[:100]": "data.test[:3]",
    "data.test, ": "data.test[:40], ",
    "[[worst]]": "[[worst]], points=7, steps=5",
}


def main() -> None:
    """Run all blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="the folder whose `figures` are written")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs: to see that everything runs")
    options = parser.parse_args()
    text = (HERE / "gallery.md").read_text()
    for large, small in REDUCED.items() if options.quick else ():
        text = text.replace(large, small)
    known: dict[str, Any] = {}
    for code, picture in BLOCK.findall(text):
        drawn = run(code, known)
        if picture:
            save(drawn, options.to / picture)


def run(code: str, known: dict[str, Any]) -> Any:
    """Run a block among the names that are known; the value of its last line, if that is an expression."""
    lines = ast.parse(code).body
    last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
    exec(compile(ast.Module(lines, []), "gallery.md", "exec"), known)
    return None if last is None else eval(compile(ast.Expression(last.value), "gallery.md", "eval"), known)


def save(drawn: Any, path: Path) -> None:
    """Save axes or a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = drawn if hasattr(drawn, "savefig") else drawn.figure
    pixels = BytesIO()
    figure.savefig(pixels, dpi=100)
    Image.open(pixels).convert("RGB").quantize(256).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
