"""Holds instances against a JSON Schema, both as JSON on standard input; prints the names of those it takes."""

import json
import sys

from jsonschema import Draft202012Validator

asked = json.load(sys.stdin)
Draft202012Validator.check_schema(asked["schema"])
validator = Draft202012Validator(asked["schema"])
taken = []
for name, instance in asked["instances"]:
    fault = next(iter(validator.iter_errors(instance)), None)
    if fault is None:
        taken.append(name)
    else:
        print(f"{name.splitlines()[0][:60]}: {fault.json_path}: {fault.message[:200]}", file=sys.stderr)
json.dump(taken, sys.stdout)
