"""Some dozens of damaged images, and the same with checksums repaired; tests/damage.py makes as many as one likes."""

import json
from pathlib import Path

from support import REPOSITORY, User

IMAGES = 40


def test_damaged_images(user: User, tmp_path: Path) -> None:
    script = REPOSITORY / "tests/damage.py"
    result = user.run(script, "--images", str(IMAGES), "--folder", str(tmp_path), plain=True, code=None, quiet=False)
    assert result.returncode == 0, result
    told = json.loads(result.stdout)
    assert (told["images"], told["faults"]) == (IMAGES, 0)
    assert len(told["kinds"]) > 10 and not list(tmp_path.glob("pycds-damage-*"))
