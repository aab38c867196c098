//! Which series an expression of PromQL names.

/// A metric with its matchers: label, operator, value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<(String, String, String)>,
}

/// Words that stand where a metric might.
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
const AGGREGATIONS: [&str; 7] = ["sum", "min", "max", "avg", "count", "topk", "bottomk"];
/// They are followed by labels in parentheses.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Every selector, from left to right. It must be an expression that Prometheus takes.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() {
            // A number, or a duration.
            rest = word(rest).1;
        } else if c == '[' {
            rest = rest.split_once(']').expect("a range ends").1;
        } else if is_of_word(c) {
            let (name, after) = word(rest);
            rest = after.trim_start();
            if GROUPINGS.contains(&name) {
                if let Some(labels) = rest.strip_prefix('(') {
                    rest = labels.split_once(')').expect("labels end").1;
                }
            } else if let Some(inside) = rest.strip_prefix('{') {
                let (matchers, after) = matchers(inside);
                found.push(Selector { metric: name.to_owned(), matchers });
                rest = after;
            } else if !rest.starts_with('(') && !OPERATORS.contains(&name) && !AGGREGATIONS.contains(&name) {
                found.push(Selector { metric: name.to_owned(), matchers: Vec::new() });
            }
        } else {
            assert!(c != '{' && c != '"', "not understood here: {rest}");
            rest = &rest[c.len_utf8()..];
        }
    }
    found
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_of_word(c)).unwrap_or(text.len()))
}

/// What is inside braces, and what comes after them.
fn matchers(mut rest: &str) -> (Vec<(String, String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return (found, after);
        }
        let (label, after) = word(rest);
        let (operator, quoted) = after.split_once('"').expect("a value");
        let (value, after) = quoted.split_once('"').expect("its end");
        assert!(!value.ends_with('\\'), "escapes are not understood: {value}");
        found.push((label.to_owned(), operator.trim().to_owned(), value.to_owned()));
        rest = after;
    }
}

#[test]
fn selectors_are_told_from_everything_else() {
    let of = |metric: &str, matchers: &[(&str, &str, &str)]| Selector {
        metric: metric.to_owned(),
        matchers: matchers.iter().map(|(l, o, v)| ((*l).to_owned(), (*o).to_owned(), (*v).to_owned())).collect(),
    };
    assert_eq!(selectors("time() - 5m > 0.3 * vector(14)"), []);
    assert_eq!(
        selectors("0 < sum by (a, b) (increase(x_total{reason!~\"y|z\", b = \"c\"}[15m])) / on (a) group_left (b) d"),
        [of("x_total", &[("reason", "!~", "y|z"), ("b", "=", "c")]), of("d", &[])]
    );
    assert_eq!(
        selectors("up == 0 and on () absent(last_over_time((a:b - time())[14d:1h])) unless q{} offset 5m"),
        [of("up", &[]), of("a:b", &[]), of("q", &[])]
    );
}
