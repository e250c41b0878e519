"""book/speed.md from bench/results/*.json: .venv/bin/python -m bench.report. Standard library only, and no figure of its own."""

import json
from pathlib import Path
from typing import Any

from bench.measure import quartiles, ratios

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "book" / "speed.md"
STEPS = ROOT / "data" / "results" / "steps.json"
NONE, BLANK = "not installed", "\u00a0"  # a number and its unit stay on one line

HEAD = """\
# Speed

How long things take, and how much memory, beside [diffusers](https://github.com/huggingface/diffusers) and
[denoising-diffusion-pytorch](https://github.com/lucidrains/denoising-diffusion-pytorch). `make bench` measures the parts of the first section again, on
the machine at hand, and writes this page. The values of every round are in `bench/results`. Of each part, the newest run is shown. *Fewer steps*, at the
end, has a command of its own.

**How to read it.** Cases take turns in one run, because on a machine that does other work, too, only ratios taken together mean anything.
A ratio says how many times as long as ours the other takes, and under *Memory* how many times as much: above 1 ours is faster, or needs less. It is the median over the rounds, each round giving one ratio;
in brackets are the quartiles. There are three ratios to diffusers. *As it comes*: what its user gets without asking. *Our dtype and layout*: what its user
gets who knows what to ask for, the precision and the memory layout that ours chooses by itself; this is the comparison of the two networks. *Both in float32*
is the other way to be fair: ours told to compute in float32, as diffusers does unasked; the memory layout it still chooses by itself.
denoising-diffusion-pytorch has a network of its own, of the same width and the same multipliers: other work, given for orientation.
"""

WHAT = """\
**The network** is the paper's for CIFAR-10, 35.7 million parameters, unless a line says otherwise; diffusers' `UNet2DModel` has the same layers and
as many parameters. A sampling step is one evaluation of the network and the arithmetic of Algorithm 2; a training step is Algorithm 1 with
Adam, clipped gradients and the moving average. diffusers' training step is that of its example `train_unconditional.py`, without what reads files. The
*small network* is 28 pixels wide and starts with 32 channels: a size that trains on a processor in an hour or two.
"""

ELSEWHERE = """\
**The processor matters as much as the code.** The first section is of a processor with AMX, a unit that multiplies bfloat16. In the sections *held to*
the same processor is forbidden AMX and more, by `ONEDNN_MAX_CPU_ISA` and `ATEN_CPU_CAPABILITY`; the machine and the software stay the same. Without AMX
ours computes in float32 here, which is quicker than this processor's AVX512-bf16: of the two runs held to that, the first computed in bfloat16. In
float32 both libraries use oneDNN's convolutions, and the lead over diffusers as it comes is smaller. On a processor with AVX512-bf16 that is
not Intel's, ours computes in bfloat16; no run here is of one.
"""


def page(runs: list[dict[str, Any]]) -> str:
    """Markdown for all runs: by machine, of each part the newest; and all of them as what that is compared with."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        machines.setdefault(run["machine"]["slug"], []).append(run)
    sections = [HEAD, WHAT, ELSEWHERE]
    if not any(run["machine"]["gpu"] for run in runs):
        sections.append(
            "**No GPU** has been measured yet: nothing here says anything about one.\n"
        )
    for of_machine in machines.values():
        *older, newest = of_machine
        newest = newest | dict(
            parts={
                part: rows for run in of_machine for part, rows in run["parts"].items()
            },
            dates={part: run["date"] for run in of_machine for part in run["parts"]},
        )
        sections.append(machine(newest))
        sections += [text for part in PARTS if (text := part(newest))]
        if older:
            sections.append(repeated([*older, newest]))
    return "\n".join(
        [*sections, fewer_steps(json.loads(STEPS.read_text(encoding="utf-8")))]
    )


def machine(run: dict[str, Any]) -> str:
    m, layout = run["machine"], run["layout"]
    chosen = {
        f"{how['arithmetic']} with {how['weights']} weights, {how['layout']}"
        for how in layout.values()
    }
    chosen = (
        chosen.pop()
        if len(chosen) == 1
        else "; ".join(
            f"{what} {how['arithmetic']} with {how['weights']} weights, {how['layout']}"
            for what, how in layout.items()
        )
    )
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    name = m["gpu"] or m["processor"]
    held = f", held to {m['held']}" if m.get("held") and not m["gpu"] else ""
    return f"""\
## {name}, {m["cores"]} cores{held}

{m["gpu"] + ", " if m["gpu"] else ""}{m["processor"]}, {m["cores"]} cores, {m["threads"]} threads, {m["instructions"]}, {m["memory_gb"]} GiB, {m["system"]}, Python {m["python"]},
{versions}; measured on {run["date"]}{earlier(run)}. Here ours computes in: {chosen}.
"""


def earlier(run: dict[str, Any]) -> str:
    """Which parts are of an older run, and of which day."""
    names = dict(
        networks="single steps",
        jobs="whole jobs",
        memory="memory",
        bound="the bound",
        scaling="scaling",
        imports="imports",
        project="this book",
    )
    days: dict[str, list[str]] = {}
    for part, day in run["dates"].items():
        if day != run["date"]:
            days.setdefault(day, []).append(names[part])
    said = "; ".join(f"{', '.join(parts)} on {day}" for day, parts in days.items())
    return f" ({said})" if said else ""


def networks(run: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['what']}, batch {row['batch']}",
            *against(row, run, "ddp"),
            float32(row),
            rounds(row),
        ]
        for row in rows_of(run, "networks")
    ]
    head = [
        "",
        "ours",
        "diffusers as it comes",
        "diffusers, our dtype and layout",
        "denoising-diffusion-pytorch",
        "both in float32",
        "rounds",
    ]
    return table("One step", head, rows)


def jobs(run: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['what']}, batch {row['batch']}"
            if "train" in row["what"]
            else row["what"],
            *against(row, run),
            rounds(row),
        ]
        for row in rows_of(run, "jobs")
    ]
    return table(
        "Whole jobs, set-up included",
        [
            "",
            "ours",
            "diffusers as it comes",
            "diffusers, our dtype and layout",
            "rounds",
        ],
        rows,
    )


def memory(run: dict[str, Any]) -> str:
    rows = []
    for row in rows_of(run, "memory"):
        if "T" not in row:
            rows.append(
                [f"{row['what']}, batch {row['batch']}", *against(row, run, "ddp")]
            )
    text = table(
        "Memory: the peak, less what the imports take",
        [
            "",
            "ours",
            "diffusers as it comes",
            "diffusers, our dtype and layout",
            "denoising-diffusion-pytorch",
        ],
        rows,
    )
    flat = [
        f"{amount(row, 'ours')} for T = {row['T']:,}"
        for row in rows_of(run, "memory")
        if "T" in row
    ]
    return text + (
        f"\nThe bound over all steps, `bits_per_dim`, of two images with next to no network: {', '.join(flat)}.\n"
        if flat
        else ""
    )


def bound(run: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['what']}, batch {row['batch']}, T = {row['T']}",
            amount(row, "ours"),
            ratio(row, "improved"),
            rounds(row),
        ]
        for row in rows_of(run, "bound")
    ]
    return table(
        "The whole bound",
        [
            "",
            "`bits_per_dim`",
            "improved-diffusion's arithmetic, same network",
            "rounds",
        ],
        rows,
    )


def scaling(run: dict[str, Any]) -> str:
    rows = []
    for row in rows_of(run, "scaling"):
        steps = 1 / quartiles(row["values"]["ours"])[1]
        rows.append(
            [
                f"{row['by']} {row['at']}",
                row["batch"],
                f"{steps:.3g}",
                f"{steps * row['batch']:.3g}",
                ratio(row, "diffusers"),
                rounds(row),
            ]
        )
    note = "Two processes share the batch and the cores, by gloo, on the processor.\n"
    text = table(
        "Scaling: a training step of the small network",
        ["", "batch", "steps/s", "images/s", "diffusers as it comes", "rounds"],
        rows,
    )
    return text + "\n" + note if text else ""


def imports(run: dict[str, Any]) -> str:
    names = {
        "torch": "`import torch`",
        "ours": "`import ddpm_core`",
        "diffusers": "`from diffusers import DDPMPipeline, UNet2DModel`",
    }
    rows = [
        [names[name], amount(row, name), rounds(row)]
        for row in rows_of(run, "imports")
        for name in row["values"]
    ]
    return table("Starting Python and importing", ["", "seconds", "rounds"], rows)


def project(run: dict[str, Any]) -> str:
    """This book's own loops and pages."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows_of(run, "project"):
        found.setdefault(row["what"], {})[row.get("page", "")] = row
    if not found:
        return ""
    loops = " and ".join(
        f"`{what}` {amount(rows[''], 'ours')}"
        for what, rows in found.items()
        if "" in rows
    )
    ran, weights, formulas = (
        found.get(what, {}) for what in ("notebook", "weight", "first formula")
    )
    lines = [
        [
            page,
            *(
                amount(rows[page], "ours") if page in rows else "-"
                for rows in (ran, weights, formulas)
            ),
        ]
        for page in sorted({*ran, *weights, *formulas})
    ]
    return (
        table("This book", ["page", "run under test", "weight", "first formula"], lines)
        + f"""
{loops}, both from nothing but the environment, when the book had {len(ran)} notebooks; of `make test`, the build is the first part. *Run under test* is what the cells of a notebook take there, two
notebooks at a time. *Weight* is what a page loads from the book's own files before anybody presses a button, text compressed as every public host sends it.
*First formula*: from opening the page on a local disk until its first formula stands, the median of three times. The landing page was not measured; any other page that the table lacks is newer than this measurement.
"""
    )


PARTS = (networks, jobs, memory, bound, scaling, imports, project)


def repeated(runs: list[dict[str, Any]]) -> str:
    """The ratios to diffusers of every run on one machine; in dates the hyphens that do not end a line."""
    rows = []
    for number, run in enumerate(runs, start=1):
        for row in [*rows_of(run, "networks"), *rows_of(run, "memory")]:
            if {"ours", "diffusers"} <= set(row["values"]) and len(
                row["values"]["ours"]
            ) >= (3 if row["unit"] == "s" else 1):
                what = f"{row['what']}, batch {row['batch']}" + (
                    ", memory" if row["unit"] == "bytes" else ""
                )
                rows.append(
                    [
                        f"{number},{BLANK}{run['date'].replace('-', chr(0x2011))}",
                        what,
                        ratio(row, "diffusers"),
                        ratio(row, equal_of(run, row)),
                    ]
                )
    head = ["run", "", "diffusers as it comes", "diffusers, our dtype and layout"]
    return (
        table("Every run on this machine", head, sorted(rows, key=lambda row: row[1]))
        + "\nIn the order in which they were taken, each of the source as it was then.\n"
    )


def fewer_steps(measured: dict[str, Any]) -> str:
    """Quality against wall time: what data/results/steps.json says of the book's model."""
    samplers = dict(
        beta='`"ddpm"`, `variance="beta"`',
        beta_tilde='`"ddpm"`, `variance="beta_tilde"`',
        ddim='`"ddim"`',
        dpm='`"dpm"`',
    )
    rows = [
        [
            samplers[row["row"]],
            row["steps"],
            f"{row['seconds_an_image']:.3f} s" if row["seconds_an_image"] else "\u2013",
            f"{row['frechet']:.2f}",
            f"{row['sure']:.2f}",
        ]
        for row in measured["rows"]
    ]
    floor = sorted(row["frechet"] for row in measured["floor"])
    n = measured["settings"]["n"]
    return f"""\
## Fewer steps

Fewer steps take less time. The book's Fashion-MNIST model, {n} images a line, {measured["machine"]}: the Frechet distance to real images in
the book's Fashion features (smaller is better; {n} real images are at {floor[0]:.2f} to {floor[-1]:.2f}), and the share of images of whose class the classifier is more than 0.9
sure. {measured.get("note", "")} By `{measured["command"]}`, seed {measured["seed"]}. [How few steps are enough?](21_steps.ipynb) explains the samplers, and shows the pictures.

{table("Quality against time", ["`sampler`", "`steps`", "an image", "distance", "sure"], rows)}
**What to choose.** Left alone, `sample` takes all T steps of the paper's Algorithm 2. In a hurry: `sampler="dpm"` with about 10 steps. With some patience:
`variance="beta_tilde"` and 100 steps. Not `variance="beta"`, `sample`'s own and the paper's, with as few steps as these.
"""


# Cells ---------------------------------------------------------------------------------------------------------------------------


def rows_of(run: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return run["parts"].get(part, {}).get("rows", [])


def against(row: dict[str, Any], run: dict[str, Any], *others: str) -> list[str]:
    return [
        amount(row, "ours"),
        ratio(row, "diffusers"),
        ratio(row, equal_of(run, row)),
        *(ratio(row, name) for name in others),
    ]


def equal_of(run: dict[str, Any], row: dict[str, Any]) -> str:
    """The case of diffusers with our dtype and layout: where ours computes as diffusers does when it comes, that is the same case."""
    how = run["layout"]["training" if "train" in row["what"] else "sampling"]
    same = how == dict(weights="float32", arithmetic="float32", layout="channels first")
    return "diffusers" if same else "equal"


def float32(row: dict[str, Any]) -> str:
    """diffusers as it comes, which computes in float32, by ours told to do the same."""
    return ratio(row, "diffusers", "float32" if "float32" in row["values"] else "ours")


def ratio(row: dict[str, Any], name: str, to: str = "ours") -> str:
    if name not in row["values"]:
        return NONE if name == "ddp" else "-"
    first, median, third = quartiles(ratios(row["values"][name], row["values"][to]))
    return f"{median:.2f}" + (
        f" [{first:.2f},{BLANK}{third:.2f}]" if len(row["values"][name]) > 1 else ""
    )


def amount(row: dict[str, Any], name: str) -> str:
    median = quartiles(row["values"][name])[1]
    if row["unit"] == "bytes":
        return (
            f"{median / 2**20:,.0f}{BLANK}MiB"
            if median >= 2**23
            else f"{median / 2**20:.2f}{BLANK}MiB"
        )
    return f"{median:.3g}{BLANK}s"


def rounds(row: dict[str, Any]) -> str:
    return str(len(row["values"]["ours"]))


def table(title: str, head: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"### {title}\n\n" + "".join(
        "| " + " | ".join(map(str, line)) + " |\n" for line in lines
    )


def stored() -> list[dict[str, Any]]:
    """All runs, the oldest first: by date, and on one day by number."""
    runs = [
        (file, json.loads(file.read_text(encoding="utf-8")))
        for file in RESULTS.glob("*.json")
    ]
    return [
        run
        for file, run in sorted(
            runs,
            key=lambda pair: (
                pair[1]["machine"]["slug"],
                pair[1]["date"],
                len(pair[0].name),
                pair[0].name,
            ),
        )
    ]


if __name__ == "__main__":
    PAGE.write_text(page(stored()), encoding="utf-8")
    print(f"bench: written to {PAGE.relative_to(ROOT)}")
