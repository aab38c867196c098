"""The rows: what is promised, of which measure, against whom."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    name: str      # what `--rows` selects by
    title: str
    kind: str      # who competes: direct, tunnel, tls
    measure: str
    key: str
    better: str    # max or min
    bound: str     # "best": the number is a factor of the best peer; "value": an absolute; "none": of the row without a proxy
    factor: float
    digits: int = 1
    unit: str = ""

    def best(self, values, **options):
        return (max if self.better == "max" else min)(values, **options)

    def target(self):
        sign = "≥" if self.better == "max" else "≤"
        text = {"best": f"{sign} {self.factor:g} × best", "none": f"{sign} {self.factor:g} × no proxy",
                "value": f"{sign} {self.factor:g} {self.unit}".rstrip()}[self.bound]
        return {"≥ 1 × best": "ahead", "≤ 1 × best": "ahead", "≤ 0": "0"}.get(text, text)

    def met(self, ours, best, alone):
        """`None` where there is nothing to compare with. Level with a peer, within the noise, counts as ahead."""
        reference = {"best": best, "none": alone, "value": 1.0}[self.bound]
        if ours is None or reference is None:
            return None
        bound = self.factor * reference
        slack = 0.95 if self.bound == "best" else 1.0
        return ours >= bound * slack if self.better == "max" else ours * slack <= bound


def rows(kind, measure, *entries):
    return [Row(f"{kind}/{measure}", title, kind, measure, key, better, bound, factor, *rest)
            for title, key, better, bound, factor, *rest in entries]


def bulk(kind, measure, text, factor, prefix=""):
    return rows(kind, measure, *((f"GB per CPU-second, {text}, {direction}", f"{prefix}{direction}_gb_per_cpu_s", "max", "best", factor, 2)
                                 for direction in ("up", "down")))


ROWS = [
    *bulk("direct", "bulk", "1 stream", 1.3),
    *bulk("direct", "bulk64", "64 streams", 1.3),
    *rows("direct", "request", ("64 connections, 64-byte request: CPU µs each", "c64_cpu_us", "min", "best", 1.05),
          ("the same: requests a second", "c64_per_s", "max", "best", 0.95, 0)),
    *rows("direct", "churn", ("new connection: first byte p50, µs", "w1_p50_us", "min", "best", 1, 0),
          ("new connections a second, 16 clients", "w16_per_s", "max", "best", 1, 0),
          ("new connection: CPU µs each, 16 clients", "w16_cpu_us", "min", "best", 1)),
    *rows("direct", "first", ("50 ms round trip: first byte p50, ms", "one_p50_ms", "min", "value", 53, 1, "ms"),
          ("32 at once: p50, ms", "burst_p50_ms", "min", "value", 53, 1, "ms"),
          ("32 at once: p99, ms", "burst_p99_ms", "min", "value", 53, 1, "ms")),
    *bulk("tunnel", "bulk", "1 stream", 1.3),
    *bulk("tunnel", "bulk64", "64 streams", 1.5),
    *rows("tunnel", "request", ("64 connections, 64-byte request: CPU µs each", "c64_cpu_us", "min", "best", 0.6)),
    *rows("tunnel", "churn", ("new connection: first byte p50, µs", "w1_p50_us", "min", "best", 1, 0),
          ("new connections a second, 16 clients", "w16_per_s", "max", "best", 1, 0),
          ("new connection: CPU µs each, 16 clients", "w16_cpu_us", "min", "best", 0.6)),
    *rows("tunnel", "beside", *((f"request beside {streams} bulk {direction}: p50, µs", f"{direction}{streams}_p50_us", "min", "value", most, 0, "µs")
                                for streams, most in ((1, 500), (8, 2500)) for direction in ("down", "up"))),
    *rows("tunnel", "stall", *((f"request while {stalled} readers stall: p50, × without", f"s{stalled}_ratio", "min", "value", 1.25, 2)
                               for stalled in (4, 64))),
    *rows("tunnel", "first", ("50 ms round trip: first byte p50, ms", "one_p50_ms", "min", "value", 51.5, 1, "ms"),
          ("32 at once: p50, ms", "burst_p50_ms", "min", "value", 53, 1, "ms"),
          ("32 at once: p99, ms", "burst_p99_ms", "min", "value", 55, 1, "ms")),
    *rows("tunnel", "line", *((f"1 Gbit/s × 50 ms, 1 stream {direction}, Mbit/s", f"{direction}_mbit", "max", "none", 0.98, 0)
                              for direction in ("down", "up"))),
    *bulk("tls", "bulk", "TLS, 1 stream", 1.5),
    *bulk("tls", "bulk64", "TLS, 64 streams", 1.5),
    *[row for seconds in (2, 4, 10, 30) for row in rows(
        "tunnel", f"cut{seconds}",
        (f"silent cut of {seconds} s: moves both ways after the heal, s", "moved_s", "min", "value", 1, 2, "s"),
        (f"silent cut of {seconds} s: bytes lost", "lost", "min", "value", 0, 0),
        *([(f"silent cut of {seconds} s: noticed after, s", "noticed_s", "min", "value", 14, 1, "s")] if seconds == 30 else []))],
    *[row for seconds in (2, 4, 10, 30) for row in rows(
        "direct", f"cut{seconds}", (f"silent cut of {seconds} s: what a client sends arrives after the heal, s", "arrived_s", "min", "value", 1.5, 2, "s"))],
    *rows("direct", "deaf", ("64 saturated uploads: hear nothing for 1.2 s", "unheard", "min", "value", 0, 0)),
    *rows("tunnel", "deaf", ("64 saturated uploads: hear nothing for 1.2 s", "unheard", "min", "value", 0, 0)),
    *rows("direct", "idle", ("memory of an idle connection, KiB", "kib_per_connection", "min", "value", 3.3, 1, "KiB"),
          ("5,000 idle connections: CPU ms a second", "cpu_ms_per_s", "min", "value", 1, 2, "ms")),
    *rows("tunnel", "idle", ("memory of an idle connection, both ends, KiB", "kib_per_connection", "min", "value", 6, 1, "KiB"),
          ("5,000 idle connections: CPU ms a second", "cpu_ms_per_s", "min", "value", 1, 2, "ms")),
    *bulk("direct", "crowd", "1 stream, 1,000 connections open", 1.3),
    *bulk("direct", "crowd", "64 streams, 1,000 connections open", 1.3, "64_"),
    *bulk("tunnel", "crowd", "1 stream, 1,000 connections open", 1.3),
    *bulk("tunnel", "crowd", "64 streams, 1,000 connections open", 1.5, "64_"),
    *rows("direct", "descriptors", ("out of 20,000 descriptors: clients left hanging", "hung", "min", "value", 0, 0),
          ("out of 20,000 descriptors: serves again (1 = yes)", "recovered", "max", "value", 1, 0)),
    *rows("direct", "thousand", ("1,000 upstreams with beats: CPU ms a second", "cpu_ms_per_s", "min", "value", 10, 1, "ms"),
          ("the same, scraped every 15 s: peak MiB", "peak_mib", "min", "value", 96, 1, "MiB")),
    *rows("direct", "retune", ("retuning 1,000 links under load: redialled", "redialled", "min", "value", 0, 0),
          ("retuning: connections dropped", "dropped", "min", "value", 0, 0),
          ("retuning: in effect after, s", "effect_s", "min", "value", 1, 2, "s")),
]

KINDS = {"direct": "Direct mode", "tunnel": "Tunnel mode", "tls": "Tunnel mode under TLS 1.3"}
