"""What runs in a training pod: takes the order that a run of the loop put into the home volume, trains as ``accelerated`` does, and answers there.

    python -m predator_si.train.pod FOLDER

Besides the home volume the pod has nothing of the platform: no token, no database, no Secret. The training groups lie in the folder encrypted, by a key that
only this pod's environment has, and are opened in the pod's own memory-backed or local scratch space.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from predator_si.train.accelerated import environment, launch_command

SEAL = "PREDATOR_SI_TRAINING_SEAL"
"""Variable with the key of this order's training groups."""
PROCESSES = "PREDATOR_SI_TRAINING_PROCESSES"
"""How many; not set: one for each GPU of the pod."""
PARTS = ("examples", "earlier")


def main(folder: Path) -> int:
    """Train by the order in ``folder``; the exit code of the processes."""
    from cryptography.fernet import Fernet
    from dagster_pipes import open_dagster_pipes

    seal, said = Fernet(os.environ[SEAL]), os.environ.get(PROCESSES)
    processes = int(said) if said else None
    with open_dagster_pipes() as pipes, tempfile.TemporaryDirectory(prefix="predator-si-training-") as scratch:
        here = Path(scratch)
        for name in PARTS:
            sealed = folder / f"{name}.sealed"
            if sealed.is_file():
                (here / f"{name}.parquet").write_bytes(seal.decrypt(sealed.read_bytes()))
        wanted = json.loads((folder / "order.json").read_text(encoding="utf-8"))
        (here / "order.json").write_text(json.dumps({**wanted, "talk": str(folder)}), encoding="utf-8")
        code = subprocess.run([*launch_command(processes), scratch], env={**os.environ, **environment(processes)}, check=False).returncode
        pipes.log.info(f"the training processes ended with code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
