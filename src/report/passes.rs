//! The passes there are, and what they did.

use std::fmt::Write;

use serde_json::Value as Json;

use crate::pass::{PassInfo, PassKind, PassOption, PassReport};

/// Every pass with its one line; those of a group below it.
pub fn pass_table(table: &[PassInfo]) -> String {
    let mut text = String::new();
    let members = |info: &PassInfo| match info.kind {
        PassKind::Group(members) => members,
        PassKind::Pass { .. } => &[],
    };
    let names = table.iter().flat_map(|info| {
        let inner = members(info).iter().map(|member| member.name.len() + 2);
        std::iter::once(info.name.len()).chain(inner)
    });
    let width = names.max().unwrap_or_default();
    for info in table {
        let _ = writeln!(text, "{:width$}  {}", info.name, info.summary);
        for member in members(info) {
            let _ = writeln!(text, "  {:inner$}  {}", member.name, member.summary, inner = width - 2);
        }
    }
    text + "\nonnxshrink passes NAME explains one with its options.\n"
}

/// One pass with all its options.
pub fn pass_page(info: &PassInfo) -> String {
    let mut text = format!("{}\n\n{}\n", info.name, wrap(info.summary, ""));
    match &info.kind {
        PassKind::Group(members) => {
            text += "\nRuns these in turn until none of them changes anything:\n";
            for member in *members {
                let _ = writeln!(text, "  {}", member.name);
            }
        }
        PassKind::Pass { schema, .. } => {
            if let Some(description) = schema().get("description").and_then(Json::as_str) {
                let paragraphs = description.split("\n\n");
                paragraphs.for_each(|paragraph| text += &format!("\n{}\n", wrap(paragraph, "")));
            }
            let options = info.options();
            text += if options.is_empty() { "\nIt has no options.\n" } else { "\nOptions:\n" };
            options.iter().for_each(|option| text += &option_text(option));
        }
    }
    text
}

fn option_text(option: &PassOption) -> String {
    let default = match &option.default {
        None => "must be given".to_string(),
        Some(Json::Null) => "default: none".into(),
        Some(default) => format!("default: {default}"),
    };
    let mut text = format!("  {} ({default})\n", option.name);
    if !option.text.is_empty() {
        text += &(wrap(&option.text, "      ") + "\n");
    }
    for (choice, meaning) in &option.choices {
        let _ = match meaning.is_empty() {
            true => writeln!(text, "      {choice}"),
            false => writeln!(text, "{}", wrap(&format!("{choice}: {meaning}"), "      ")),
        };
    }
    text
}

/// Lines of at most 100 characters, each after `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && indent.len() + line.chars().count() + word.chars().count() >= 100 {
            lines.push(word.to_string());
        } else {
            line.extend(if line.is_empty() { None } else { Some(' ') });
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{indent}{line}")).collect::<Vec<_>>().join("\n")
}

/// What the passes did. One that changed nothing says what it looked for and why it did not match: in a line of its own
/// if it is `alone` or everything is explained, otherwise by its name.
pub(super) fn pass_reports(reports: &[PassReport], explain: bool, times: bool) -> String {
    let mut text = String::new();
    let width = reports.iter().map(|report| report.pass.chars().count()).max().unwrap_or_default().min(40);
    let mut idle = Vec::new();
    for report in reports {
        if !report.changed && report.implied && !explain && !times {
            idle.push(report.pass.as_str());
            continue;
        }
        let time = if times { format!("{:>9.1} ms", report.time.as_secs_f64() * 1e3) } else { String::new() };
        let _ = writeln!(text, "  {:width$}{time}  {}", report.pass, deeds(report));
        if explain || !report.changed {
            misses(report, explain, &mut text);
        }
        for note in &report.notes {
            let _ = writeln!(text, "      {note}");
        }
    }
    if !idle.is_empty() {
        text += &(wrap(&format!("nothing to do for {} (--explain tells why)", idle.join(", ")), "  ") + "\n");
    }
    text
}

fn deeds(report: &PassReport) -> String {
    let deeds: Vec<_> = report.applied.iter().map(|(rule, times)| format!("{} {times}", words(rule))).collect();
    match (deeds.is_empty(), report.changed) {
        (false, _) => deeds.join(", "),
        (true, true) => "changed the model".into(),
        (true, false) => format!("nothing to do: found no place to {}", lower_first(&report.summary)),
    }
}

fn misses(report: &PassReport, explain: bool, text: &mut String) {
    for missed in &report.missed {
        let (rule, reason, count) = (words(&missed.rule), &missed.reason, missed.count);
        let first = missed.nodes.first().map_or("", String::as_str);
        let _ = match (explain, count) {
            (true, _) => writeln!(text, "      not {rule}: {reason}: {}", missed.nodes.join(", ")),
            (false, 1) => writeln!(text, "      not {rule}: {reason}: {first}"),
            (false, _) => writeln!(text, "      not {rule}: {reason}: {count} nodes, such as {first}"),
        };
    }
}

/// A rule is called like its function.
fn words(rule: &str) -> String {
    rule.replace('_', " ")
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}
