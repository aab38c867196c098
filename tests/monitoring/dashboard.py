"""Checks a dashboard by Grafana's own types: dashboard.py DASHBOARD PROVISIONING

What the types do not know is lost on the way through them, and that is found. Beside it: panels that overlap, lack a
description, or name a data source of their own; and that the provisioning files are what Grafana reads.
"""

import json
import pathlib
import sys

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# Grafana's Prometheus data source reads these of an annotation; the types have them in no version.
ANNOTATION = {"titleFormat", "textFormat"}
VARIABLE = {"type": "prometheus", "uid": "${datasource}"}


def lost(before, after, path=""):
    """The places whose content did not come back."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            place = f"{path}.{key}"
            if key in after:
                yield from lost(value, after[key], place)
            elif not (path.startswith(".annotations") and key in ANNOTATION):
                yield place
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def faults(dashboard):
    register_default_plugins()
    through = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(dashboard)))))
    yield from lost(dashboard, through)

    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) != len(ids):
        yield "panels share an id"
    taken = {}
    for panel in panels:
        name = panel["title"]
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"{name}: wider than the page"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    yield f"{name} lies over {taken[x, y]}"
                taken[x, y] = name
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{name}: no description"
        if not panel.get("targets"):
            yield f"{name}: no query"
        if panel["type"] in ("timeseries", "stat") and not (
            panel["fieldConfig"]["defaults"].get("unit") or panel["fieldConfig"]["defaults"]["mappings"]
        ):
            yield f"{name}: no unit"
        refs = [target["refId"] for target in panel["targets"]]
        if len(set(refs)) != len(refs):
            yield f"{name}: queries share a letter"
        for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]:
            if source != VARIABLE:
                yield f"{name}: not the data source that was chosen"


def provisioning(place):
    (source,) = yaml.safe_load((place / "datasources/prometheus.yml").read_text())["datasources"]
    if source["type"] != "prometheus" or not source["url"]:
        yield "the data source is no Prometheus"
    (provider,) = yaml.safe_load((place / "dashboards/everlink.yml").read_text())["providers"]
    if provider["type"] != "file" or not provider["options"]["path"].startswith("/"):
        yield "the dashboards come from no directory"


def main():
    dashboard = json.loads(pathlib.Path(sys.argv[1]).read_text())
    found = [*faults(dashboard), *provisioning(pathlib.Path(sys.argv[2]))]
    print("\n".join(found))

    # The check is one: what nobody knows is told.
    dashboard["panels"][1]["unheardOf"] = dashboard["panels"][1]["fieldConfig"]["defaults"]["unitt"] = 1
    dashboard["panels"][2]["gridPos"]["x"] = dashboard["panels"][1]["gridPos"]["x"]
    told = "\n".join(faults(dashboard))
    if not all(word in told for word in ("unheardOf", "unitt", "lies over")):
        sys.exit(f"the check does not find what was put in: {told}")
    sys.exit(bool(found))


main()
