//! What needs no everlink: Prometheus's and Alertmanager's own tools, the dashboard's schema, the texts beside them.

use std::collections::BTreeSet;

use crate::common::program::{command, succeeded};
use crate::{alerts, deployed, read, script};

#[test]
fn promtool_takes_the_scrape_configuration_with_its_rules() {
    let said = succeeded(command("promtool").arg("check").arg("config").arg(deployed("prometheus/prometheus.yml")));
    assert!(said.contains(&format!("SUCCESS: {} rules found", alerts().len())), "{said}");
    succeeded(
        command("promtool")
            .args(["check", "rules", "--lint=all", "--lint-fatal"])
            .arg(deployed("prometheus/alerts.yml")),
    );
}

#[test]
fn alerts_fire_when_they_are_to_and_no_other_does() {
    succeeded(command("promtool").args(["test", "rules"]).arg(deployed("prometheus/alerts_test.yml")));
}

#[test]
fn certificates_are_told_days_before_they_end_unless_they_are_renewed() {
    succeeded(command("promtool").args(["test", "rules"]).arg(deployed("prometheus/alerts_days_test.yml")));
}

#[test]
fn every_alert_has_a_case_in_which_it_fires() {
    let cases = read("prometheus/alerts_test.yml") + &read("prometheus/alerts_days_test.yml");
    let without: Vec<_> =
        alerts().into_iter().filter(|alert| !cases.contains(&format!("alertname=\"{alert}\""))).collect();
    assert_eq!(without, [""; 0]);
}

#[test]
fn every_alert_is_in_the_table_of_the_readme_and_back() {
    let readme = read("prometheus/README.md");
    let told = readme.lines().filter_map(|line| line.strip_prefix("| `Everlink")?.split('`').next());
    let told: BTreeSet<_> = told.map(|name| format!("Everlink{name}")).collect();
    assert_eq!(told, alerts().into_iter().collect());
}

#[test]
fn alertmanager_takes_the_example_and_it_names_alerts_that_exist() {
    let file = deployed("prometheus/alertmanager.yml");
    succeeded(command("amtool").arg("check-config").arg(&file));
    let text = read("prometheus/alertmanager.yml");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("Everlink"));
    let unknown: Vec<_> = words.filter(|word| !alerts().iter().any(|alert| alert == word)).collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn the_dashboard_holds_only_what_grafana_knows() {
    let grafana = deployed("grafana");
    succeeded(script("dashboard.py").arg(grafana.join("everlink.json")).arg(grafana.join("provisioning")));
}
