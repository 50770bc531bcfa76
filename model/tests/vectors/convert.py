#!/usr/bin/env python3
"""Writes split-horizon.json beside this file from the form of ../shared/vectors/split-horizon.json (README.md)."""
import json
import pathlib
import sys


def at(e):
    return f"[{e['address']}]:{e['port']}" if ":" in e["address"] else f"{e['address']}:{e['port']}"


def line(case):
    client = case["client"]
    out = {
        "id": case["id"],
        "client": " ".join([client["cluster"], client["network"], client["locality"],
                            ",".join(f"v{f}" for f in client["families"])]),
    }
    if "policy" in case:
        out["tiers"] = case["policy"]["tiers"]
    if case.get("drained"):
        out["drained"] = sorted(case["drained"])
    hidden = sorted(c for c, to in case.get("notExportedTo", {}).items() if client["cluster"] in to)
    if hidden:
        out["hidden"] = hidden
    out["gateways"] = [f"{g['cluster']} {g['network']} {at(g)}" for g in case["gateways"]]
    out["endpoints"] = [
        f"{e['cluster']} {e['network']} {e['locality']} {at(e)} {e['weight']}"
        + (" ready" if e["ready"] else " unready") + (" mtls" if e["mtls"] else " plain")
        for e in case["endpoints"]
    ]
    expect = case["expect"]
    out["items"] = sorted(f"{at(i)} {i['via']} {i['tier']} {i['share']}" for i in expect["items"])
    out["dropped"] = sorted(f"{d['cluster']} {d['network']} {d['reason']} {d['ready']}" for d in expect["dropped"])
    return json.dumps(out, separators=(",", ":"))


cases = json.load(open(sys.argv[1]))["cases"]
target = pathlib.Path(__file__).with_name("split-horizon.json")
target.write_text("[\n" + ",\n".join(map(line, cases)) + "\n]\n")
print(f"{len(cases)} cases in {target}")
