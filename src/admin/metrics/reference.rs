//! `docs/METRICS.md`, made from what the code says of its metrics.

use std::fmt::Write as _;

use super::{Metrics, MetricsError};

const HEAD: &str = "\
# Metrics

`GET /metrics` on `admin.listen` shows them in Prometheus' text format. The names are a contract: they change only with an
entry in the [changelog](../CHANGELOG.md). [`deploy/prometheus`](../deploy/prometheus) has alerts for those that call for one,
and [`deploy/grafana`](../deploy/grafana) a dashboard that shows most of them. No label's value is chosen by a stranger.

This page is generated from the code by `make generate`.

| metric | kind | meaning | when to worry |
|---|---|---|---|
";

const LABELS_HEAD: &str = "
## Labels

| metric | label | values |
|---|---|---|
";

/// The page, in Markdown.
///
/// # Errors
///
/// When the metrics cannot be made; no input can cause it.
pub fn markdown() -> Result<String, MetricsError> {
    let metrics = Metrics::new()?;
    let mut entries: Vec<_> = metrics.entries().iter().collect();
    entries.sort_by_key(|entry| entry.about.name);
    let mut out = HEAD.to_owned();
    for entry in &entries {
        let about = entry.about;
        let (help, worry) = (cell(about.help), cell(about.worry));
        let labels: Vec<_> = about.labels.iter().map(|(name, _)| *name).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let kind = entry.kind.as_str();
        let _ = writeln!(out, "| `{}{labels}` | {kind} | {help} | {worry} |", about.name);
    }
    out.push_str(LABELS_HEAD);
    for entry in &entries {
        for (label, values) in entry.about.labels {
            let _ = writeln!(out, "| `{}` | `{label}` | {} |", entry.about.name, cell(values));
        }
    }
    Ok(out)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_code_says() {
        let committed = include_str!("../../../docs/METRICS.md");
        assert!(markdown().unwrap() == committed, "docs/METRICS.md is stale; run `make generate`");
    }
}
