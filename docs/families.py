"""Which families of models are tested for what: the table in `families.md`.

    python docs/families.py

runs `tests/models/families/test_every_family.py` on the smallest pipeline of each family and writes
the table anew, from what passed.
"""

import runpy
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "models" / "families" / "test_every_family.py"
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- made by docs/families.py: begin -->", "<!-- end -->"
# Column -> the test that fills it; of questions, with its parameter.
COLUMNS = {
    "index": "test_the_self_check_passes",
    "exact": "test_a_row_is_the_gradient_by_autograd",
    "concept": "test_it_is_asked concept",
    "image": "test_it_is_asked image",
    "prompt": "test_it_is_asked drawn",
    "part": "test_it_is_asked part",
    "step": "test_it_is_asked_about_a_step_of_its_making",
    "local": "test_it_is_asked local",
    "reward": "test_it_is_asked reward",
    "LoRA": "test_adapters_are_attributed",
}
sys.path.insert(0, str(ROOT / "tests"))


def passed() -> dict[str, dict[str, bool]]:
    """Family -> test (and question) -> whether it passed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-n", "0", str(TESTS), f"--junitxml={file}"]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = ElementTree.parse(file).iter("testcase")
        found: dict[str, dict[str, bool]] = defaultdict(dict)
        for case in cases:
            name, _, given = case.attrib["name"].partition("[")
            good = not any(child.tag in ("failure", "error", "skipped") for child in case)
            family, kind = given[:-1], ""
            if any(test.startswith(f"{name} ") for test in COLUMNS.values()):
                family, _, kind = family.rpartition("-")
            found[family][f"{name} {kind}".strip()] = good
    return found


def table() -> str:
    """Families by columns: yes, no, or the number of a note that says why it is refused."""
    tests = runpy.run_path(str(TESTS))
    results, notes = passed(), []
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for family in tests["BUILDERS"]:
        cells = []
        for column, test in COLUMNS.items():
            reason = tests["REFUSED"].get((family, column))
            said = "yes" if results[family].get(test) else "no"
            if column == "exact" and said == "yes":
                said = f"{tests['EXACT'].get(family, 1e-8):.0e}".replace("e-0", "e-")
            if reason:
                notes.append(f"{family} {reason}")
                said = f"refused ({len(notes)})"
            cells.append(said)
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{i}. {note}" for i, note in enumerate(notes, 1))])


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
