"""Everything that can be said of manifests without a cluster: `lint.py --documented README.md [--version 1.37 …] FILE …`.

Each FILE holds what would be applied together. A problem is a line `FILE: Kind/name: what is wrong`; the exit code is 1
if there is one. The API schemas tell names, types and required fields; `rules/` holds what they leave open.
"""

import argparse
import sys
from pathlib import Path

import yaml

from rules import RULES
from rules.model import Manifests


class Unique(yaml.CSafeLoader):
    """As the API server, and unlike PyYAML, refuses a key that stands there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(path):
    return [document for document in yaml.load_all(Path(path).read_text(), Unique) if document is not None]


def problems(path, versions, documented):
    try:
        documents = load(path)
    except yaml.YAMLError as error:
        return [f"no YAML: {error}"]
    bad = [document for document in documents if not isinstance(document, dict) or not document.get("kind")]
    if bad or not documents:
        return [f"no manifest: {bad or 'the file is empty'}"]
    manifests = Manifests(documents, versions, documented)
    return [problem for rule in RULES for problem in rule(manifests)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documented", action="append", default=[], type=Path, help="a text that tells which Secrets to make")
    parser.add_argument("--version", action="append", default=[], help="of the Kubernetes API; default: the newest known")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    documented = "".join(path.read_text() for path in arguments.documented)
    found = 0
    for path in arguments.files:
        for problem in problems(path, arguments.version, documented):
            found += 1
            print(f"{path}: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
