//! Every configuration that stands in the tree: files of their own, in documents, in manifests.

use std::path::Path;

use everlink::config;

/// Places with files that are no configurations, or are not ours.
const LEFT_OUT: [&str; 4] = ["target", "src", "tests/fuzz/corpus", ".git"];

/// Name and text of each that `everlink check` would take where its files and variables are.
pub fn everywhere(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.retain(|(name, text)| is_configuration(text) && is_sound(name, text));
    found
}

fn walk(root: &Path, place: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(place).expect("readable").flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).expect("below").display().to_string();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name.as_str()) {
                walk(root, &path, found);
            }
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let within = |texts: Vec<String>| {
            texts.into_iter().enumerate().map(|(n, text)| (format!("{name}, {}", n + 1), text)).collect()
        };
        let texts: Vec<_> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => vec![(name.clone(), text)],
            Some("md") => within(blocks(&text)),
            Some("yaml" | "yml" | "tpl") => within(scalars(&text)),
            _ => continue,
        };
        found.extend(texts);
    }
}

/// The fenced blocks of TOML in a document.
fn blocks(text: &str) -> Vec<String> {
    text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// The texts that a manifest holds under keys such as `config.toml: |`, where they are not made by a template.
fn scalars(text: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let key = line.trim_start().trim_start_matches("- ");
        let Some((key, rest)) = key.split_once(": ") else { continue };
        if !key.trim_matches('"').ends_with(".toml") || !rest.trim_start().starts_with('|') {
            continue;
        }
        let mut scalar = Vec::new();
        while let Some(next) = lines.next_if(|next| next.trim().is_empty() || indent(next) > indent(line)) {
            scalar.push(next);
        }
        let margin = scalar.iter().filter(|line| !line.trim().is_empty()).map(|line| indent(line)).min().unwrap_or(0);
        let text: String = scalar.iter().map(|line| format!("{}\n", line.get(margin..).unwrap_or_default())).collect();
        if !text.contains("{{") {
            found.push(text);
        }
    }
    found
}

/// Other files are TOML as well.
fn is_configuration(text: &str) -> bool {
    let table = toml::from_str::<toml::Table>(text);
    table.is_ok_and(|table| table.get("upstreams").or(table.get("gateway")).is_some_and(toml::Value::is_table))
}

fn is_sound(name: &str, text: &str) -> bool {
    let elsewhere = |message: &String| message.contains("is not there") || message.contains("is not set");
    match config::parse(name, text, &|_| None) {
        Ok(_) => true,
        Err(report) => report.problems.iter().all(|problem| elsewhere(&problem.message)),
    }
}
