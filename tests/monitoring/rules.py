"""Writes two variants of a file of alerts: rules.py ALERTS QUICK RENDERED

QUICK is the same with every `for` a second long. RENDERED has the same texts for alerts that all fire at once, with labels
of every kind, so that Prometheus renders each.
"""

import pathlib
import sys

import yaml

alerts, quick, rendered = map(pathlib.Path, sys.argv[1:])
groups = yaml.safe_load(alerts.read_text())["groups"]
for group in groups:
    for rule in group["rules"]:
        if "for" in rule:
            rule["for"] = "1s"
quick.write_text(yaml.safe_dump({"groups": groups}))

everywhere = "vector(0.5)"
for label in ("upstream", "instance", "reason", "outcome", "role", "endpoint", "service"):
    everywhere = f'label_replace({everywhere}, "{label}", "some {label}", "", "")'
for group in groups:
    group["name"] += " rendered"
    for rule in group["rules"]:
        rule.update({"alert": "Rendered" + rule["alert"], "expr": everywhere})
        rule.pop("for", None)
rendered.write_text(yaml.safe_dump({"groups": groups}))
