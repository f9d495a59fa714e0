"""What the documentation shows works, and what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ommatid.catalog.systems import all_systems
from ommatid.models import families

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_walkthrough_builds_its_architecture(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "add-an-architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"```python\n# ommatid/\S+\n(.*?)```", page, re.DOTALL)
    code = "\n".join(files).replace("from ommatid.nn.mixers.pixel_shift import PixelShift\n", "")
    script = tmp_path / "pixel_shift.py"
    script.write_text(
        code + "\nimport ommatid, torch\n"
        "model = ommatid.create_model('pixel_shift_tiny', num_classes=3)\n"
        "assert model(torch.rand(2, 3, 45, 70)).shape == (2, 3)\n"
    )
    result = subprocess.run([sys.executable, script], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_family_has_its_specification_and_its_row() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = {system.id for system in all_systems()}
    for id in published & set(families()):
        assert (ROOT / "docs" / "systems" / f"{id}.md").is_file(), f"docs/systems/{id}.md is missing"
        assert f"docs/systems/{id}.md" in readme, f"README's table lacks {id}: run docs/family_table.py"
