"""Run notebooks and store their outputs, reproducibly.

    make execute                                        those whose outputs are not of the present source
    python -m book._tools.execute book/01_forward.ipynb [--force]

Writing a chapter: in Jupyter, or as a script with `# %%` cells, in any editor, and then

    jupytext --to ipynb --output book/01_forward.ipynb 01_forward.py && python -m book._tools.execute book/01_forward.ipynb

Tags are written in the cell's first line and survive:  # %% tags=["hide-input"]
    hide-input   the page folds the code away (plots)      remove-input  the page shows the output only
    solution     code and output folded away as "the solution", in the page and in JupyterLab
The set-up cell is put first by this tool.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbclient

from book._tools import reaches
from book._tools.notebooks import (
    ROOT,
    address,
    is_setup,
    notebooks,
    put_setup_cell,
    read,
    write,
)

# Metadata: the digest of what the stored outputs were computed from, and the files, of
# those under data/ and book/, that were opened while they were.
STAMP, READS = "ddpm_outputs_of", "ddpm_outputs_read"


def digest(nb) -> str:
    """sha256 of what the outputs depend on; see reaches.py."""
    return reaches.digest(nb, nb.metadata.get(READS, []))


def tidy(nb) -> None:
    """Leave in a notebook only what its text, code and outputs make of it."""
    nb.metadata = {
        "kernelspec": {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        },
        "language_info": {"name": "python"},
    }
    nb.nbformat, nb.nbformat_minor = 4, 5
    seen = {}
    for cell in nb.cells:
        # Identifiers that follow from the text: a chapter converted from its script twice is the same bytes.
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[name] = seen.get(name, 0) + 1
        cell.id = "bootstrap" if is_setup(cell) else f"{name}-{seen[name]}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "solution" in tags:
            cell.metadata["tags"] = list(dict.fromkeys([*tags, "hide-cell"]))
            cell.metadata["mystnb"] = {
                "code_prompt_show": "Show the solution",
                "code_prompt_hide": "Hide the solution",
            }
            cell.metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}


def execute(nb, folder: Path) -> list[str]:
    """Run all cells in a kernel that records the files it opens; returns their names."""
    with tempfile.TemporaryDirectory() as place:
        log, hook = Path(place) / "opened", Path(place) / "recorder.py"
        log.touch()
        hook.write_text(reaches.RECORDER.format(root=str(ROOT), log=str(log)))
        nbclient.NotebookClient(
            nb,
            timeout=600,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=[
                "--IPKernelApp.log_level=40",
                f"--IPKernelApp.exec_files={hook}",
            ],
        ).execute()
        return reaches.recorded(log)


def run(path: Path, force: bool = False) -> str:
    """Bring one notebook up to date. Returns what was done; a notebook with a failing cell is left as it was."""
    nb = read(path)
    put_setup_cell(nb, address())
    stored, now = nb.metadata.get(STAMP), digest(nb)
    reads = nb.metadata.get(READS, [])
    ran = all(c.execution_count for c in nb.cells if c.cell_type == "code")
    tidy(nb)
    if force or stored != now or not ran:
        try:
            reads = execute(nb, path.parent)
        except nbclient.exceptions.CellExecutionError as error:
            return f"FAILED {path.name}, left as it was:\n{error}"
        what = "ran"
    else:
        what = "current"
    tidy(nb)
    nb.metadata[READS] = reads
    nb.metadata[STAMP] = digest(nb)
    write(path, nb)
    return f"{what:8} {path.name}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument(
        "--force", action="store_true", help="run those whose outputs are current, too"
    )
    given = parser.parse_args()
    # One thread: sums are then taken in one order, however many cores there are, and a second run gives the same bytes. Two
    # notebooks at a time make up for it. Progress bars would be stored as they stood.
    os.environ.update(
        {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "TQDM_DISABLE": "1"}
    )
    failed = False
    with ProcessPoolExecutor(2) as pool:
        for said in pool.map(
            partial(run, force=given.force),
            [p.resolve() for p in given.paths] or notebooks(),
        ):
            print(said, flush=True)
            failed |= said.startswith("FAILED")
    sys.exit(failed)


if __name__ == "__main__":
    main()
