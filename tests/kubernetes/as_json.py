"""Prints the documents of YAML files as one JSON list, the way the API server reads them (0440 is octal)."""

import json
import sys

from lint import load

print(json.dumps([document for path in sys.argv[1:] for document in load(path)]))
