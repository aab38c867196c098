//! OpenMetrics 1.0 text of gathered families.
//!
//! It differs from the older text format where that one is loose: a counter's family goes without `_total`, units are
//! told, bucket bounds are floats, and `# EOF` proves that nothing was cut off.

use std::collections::HashSet;
use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The units that a family's name may end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Writes every family, in the order given.
pub fn encode(families: &[MetricFamily]) -> String {
    let names: HashSet<&str> = families.iter().map(MetricFamily::name).collect();
    let mut out = String::with_capacity(families.iter().map(|f| f.get_metric().len() * 96 + 128).sum());
    for family in families {
        family_text(family, &names, &mut out);
    }
    out.push_str("# EOF\n");
    out
}

fn family_text(family: &MetricFamily, names: &HashSet<&str>, out: &mut String) {
    let given = family.name();
    let stripped = given.strip_suffix("_total").unwrap_or(given);
    let (name, kind) = match family.get_field_type() {
        // `everlink_connections` is a gauge, so the family of `everlink_connections_total` cannot have that name too;
        // an unknown keeps the name of its sample, which is what queries know it by.
        MetricType::COUNTER if stripped != given && names.contains(stripped) => (given, "unknown"),
        MetricType::COUNTER => (stripped, "counter"),
        MetricType::GAUGE => (given, "gauge"),
        MetricType::HISTOGRAM => (given, "histogram"),
        MetricType::SUMMARY => (given, "summary"),
        MetricType::UNTYPED => (given, "unknown"),
    };
    // Writing into a String cannot fail, here and below.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    if let Some(unit) = UNITS.iter().find(|unit| name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_'))) {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    if !family.help().is_empty() {
        let _ = write!(out, "# HELP {name} ");
        escaped(family.help(), out);
        out.push('\n');
    }
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                sample(out, name, suffix, metric, None, metric.get_counter().get_value());
            }
            MetricType::GAUGE => sample(out, name, "", metric, None, metric.get_gauge().get_value()),
            MetricType::HISTOGRAM => histogram(out, name, metric),
            MetricType::SUMMARY => summary(out, name, metric),
            MetricType::UNTYPED => {}
        }
    }
}

fn histogram(out: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    for bucket in finite {
        sample(out, name, "_bucket", metric, Some(("le", bucket.upper_bound())), bucket.cumulative_count() as f64);
    }
    let count = histogram.get_sample_count() as f64;
    sample(out, name, "_bucket", metric, Some(("le", f64::INFINITY)), count);
    sample(out, name, "_sum", metric, None, histogram.get_sample_sum());
    sample(out, name, "_count", metric, None, count);
}

fn summary(out: &mut String, name: &str, metric: &Metric) {
    let summary = metric.get_summary();
    for quantile in summary.get_quantile() {
        sample(out, name, "", metric, Some(("quantile", quantile.quantile())), quantile.value());
    }
    sample(out, name, "_sum", metric, None, summary.sample_sum());
    sample(out, name, "_count", metric, None, summary.sample_count() as f64);
}

fn sample(out: &mut String, name: &str, suffix: &str, metric: &Metric, extra: Option<(&str, f64)>, value: f64) {
    out.push_str(name);
    out.push_str(suffix);
    labels(metric.get_label(), extra, out);
    out.push(' ');
    // Counts are whole numbers and look it; past 2^53 a float no longer knows its units digit anyway.
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        let _ = write!(out, "{value}");
    } else {
        number(value, out);
    }
    out.push('\n');
}

fn labels(pairs: &[LabelPair], extra: Option<(&str, f64)>, out: &mut String) {
    let mut separator = '{';
    for pair in pairs {
        out.push(separator);
        out.push_str(pair.name());
        out.push_str("=\"");
        escaped(pair.value(), out);
        out.push('"');
        separator = ',';
    }
    if let Some((key, value)) = extra {
        let _ = write!(out, "{separator}{key}=\"");
        number(value, out);
        out.push('"');
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
}

/// Shortest text that reads back as the same number, always with a point or an exponent, as bounds must have.
fn number(value: f64, out: &mut String) {
    let _ = match value {
        _ if value.is_nan() => write!(out, "NaN"),
        f64::INFINITY => write!(out, "+Inf"),
        f64::NEG_INFINITY => write!(out, "-Inf"),
        _ => write!(out, "{value:?}"),
    };
}

fn escaped(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;
    use prometheus::{CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, Opts, Registry};

    use super::*;

    fn gathered(collectors: Vec<Box<dyn Collector>>) -> String {
        let registry = Registry::new();
        for collector in collectors {
            registry.register(collector).unwrap();
        }
        encode(&registry.gather())
    }

    #[test]
    fn every_kind_of_family_is_written_as_the_standard_has_it() {
        let bytes = CounterVec::new(Opts::new("a_bytes_total", "Bytes \"moved\"\nper \\ way."), &["to"]).unwrap();
        bytes.with_label_values(&["a \"b\"\\\n"]).inc_by(3.0);
        let clients = Gauge::new("c", "Now.").unwrap();
        clients.set(-2.5);
        let clients_total = IntCounter::new("c_total", "Ever.").unwrap();
        clients_total.inc_by(7);
        let wait = Histogram::with_opts(HistogramOpts::new("w_seconds", "Waits.").buckets(vec![0.005, 1.0])).unwrap();
        wait.observe(0.25);
        wait.observe(8.0);
        let odd = GaugeVec::new(Opts::new("z", "Odd numbers."), &["n"]).unwrap();
        for (name, value) in [("inf", f64::INFINITY), ("minus", f64::NEG_INFINITY), ("nan", f64::NAN), ("tiny", 1e-9)] {
            odd.with_label_values(&[name]).set(value);
        }
        let text =
            gathered(vec![Box::new(bytes), Box::new(clients), Box::new(clients_total), Box::new(wait), Box::new(odd)]);
        let expected = r#"# TYPE a_bytes counter
# UNIT a_bytes bytes
# HELP a_bytes Bytes \"moved\"\nper \\ way.
a_bytes_total{to="a \"b\"\\\n"} 3
# TYPE c gauge
# HELP c Now.
c -2.5
# TYPE c_total unknown
# HELP c_total Ever.
c_total 7
# TYPE w_seconds histogram
# UNIT w_seconds seconds
# HELP w_seconds Waits.
w_seconds_bucket{le="0.005"} 0
w_seconds_bucket{le="1.0"} 1
w_seconds_bucket{le="+Inf"} 2
w_seconds_sum 8.25
w_seconds_count 2
# TYPE z gauge
# HELP z Odd numbers.
z{n="inf"} +Inf
z{n="minus"} -Inf
z{n="nan"} NaN
z{n="tiny"} 1e-9
# EOF
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_at_all_is_still_a_whole_exposition() {
        assert_eq!(encode(&[]), "# EOF\n");
    }

    #[test]
    fn no_two_families_of_ours_share_a_name() {
        let metrics = crate::metrics::Metrics::new().unwrap();
        metrics.upstream(&crate::http::example::upstream("chat"));
        let text = encode(&metrics.gather());
        let mut seen = HashSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(seen.insert(name), "{name} is there twice");
        }
        assert!(text.contains("# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n"));
        assert!(text.contains("\nprocess_cpu_seconds_total "));
    }
}
