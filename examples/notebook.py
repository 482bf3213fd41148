"""Run a notebook from its first cell to its last in plain Python, and store what it printed and drew.

python examples/notebook.py             runs examples/tour.ipynb and writes its outputs into it
python examples/notebook.py A.ipynb     any other one that uses Python alone (no % or ! lines)

This needs no Jupyter; one error ends it. What a cell's last expression gives is shown as its repr.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def run_cell(source: str, names: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Run a cell's code; its outputs as a notebook stores them."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    figures = [plt.figure(number) for number in plt.get_fignums()]
    if value is not None and not source.rstrip().endswith(";"):  # as in Jupyter
        text = repr(value).splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": {"text/plain": text}})
    for figure in figures:
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=80, pil_kwargs={"optimize": True})
        plt.close(figure)
        picture = {"image/png": base64.b64encode(pixels.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": picture})
    return outputs


def run(path: Path) -> dict[str, Any]:
    """Run all cells of the notebook in one namespace, write their outputs to it, and return the namespace.

    Raises:
        Exception: what a cell raises, with a note that names the cell; the file is then as it was.
    """
    notebook = json.loads(path.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    plt.close("all")  # pyplot would go on drawing in what is open
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        print(f"{path.name}: cell {number} of {len(cells)}", flush=True)
        try:
            cell["outputs"] = run_cell("".join(cell["source"]), names, f"cell {number}")
        except Exception as error:
            error.add_note(f"in code cell {number} of {path}")
            raise
        cell["execution_count"] = number
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Run the notebooks named on the command line, or the tour."""
    for path in (sys.argv[1:] if argv is None else argv) or [Path(__file__).with_name("tour.ipynb")]:
        run(Path(path))


if __name__ == "__main__":
    main()
