//! Reports of `arrcoc-serve eval` as a page of docs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::report::{circumstances, write};
use crate::shell;

/// Puts the reports of `arrcoc-serve eval` and their curves into docs: those in the folders of `results` that
/// `parts` names, each with its heading, on one page.
pub(super) fn publish(page: &str, results: &Path, parts: &[(&str, &str)]) -> Result<()> {
    let mut result = json!({ "circumstances": circumstances() });
    let mut pages = Vec::new();
    for (name, heading) in parts {
        let read = |file: &str| -> Result<String> {
            let path = results.join(name).join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            // Where the repository lies is nobody's business.
            Ok(text.replace(&format!("{}/", shell::root().display()), ""))
        };
        result[*name] = serde_json::from_str(&read("eval.json")?)?;
        let curves = if heading.is_empty() { page.to_owned() } else { format!("{page}-{name}") };
        for extension in ["svg", "png"] {
            let from = results.join(name).join(format!("curves.{extension}"));
            let to = shell::root().join("docs/images").join(format!("{curves}.{extension}"));
            fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        pages.push((*heading, moved(&read("eval.md")?, page, &curves)));
    }
    write(page, &result, &joined(&pages))
}

/// A report with links that lead somewhere from docs/benchmarks.
fn moved(report: &str, page: &str, curves: &str) -> String {
    report
        .replace("(curves.svg)", &format!("(../images/{curves}.svg)"))
        .replace("[eval.json](eval.json)", &format!("[{page}.json]({page}.json)"))
        .replace("[answers.jsonl](answers.jsonl)", "`answers.jsonl` of a run")
}

/// The first report as it is, the others below headings of their own.
fn joined(pages: &[(&str, String)]) -> String {
    // Headings go two levels down; a line of a table never begins with `#`.
    let demoted = |page: &str| -> String {
        let line =
            |line: &str| if line.starts_with('#') { format!("##{line}\n") } else { format!("{line}\n") };
        page.lines().map(line).collect()
    };
    let part = |(heading, page): &(&str, String)| match heading.is_empty() {
        true => page.clone(),
        false => format!("\n## {heading}\n\n{}", demoted(page)),
    };
    pages.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_a_part_of_the_first_and_links_lead_somewhere() {
        let half = "# m on d\n\n![curves](curves.svg)\n\n## Left out\n\n- x\n\nAll values: [eval.json](eval.json); \
                    every answer: [answers.jsonl](answers.jsonl).\n";
        let page = joined(&[
            ("", moved(half, "relevance", "relevance")),
            ("Repacked positions", moved(half, "relevance", "relevance-repacked")),
        ]);
        let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let expected = ["# m on d", "## Left out", "## Repacked positions", "### m on d", "#### Left out"];
        assert_eq!(headings, expected);
        for link in ["(../images/relevance.svg)", "(../images/relevance-repacked.svg)", "(relevance.json)"] {
            assert!(page.contains(link), "{link} is missing in {page}");
        }
        for broken in ["(curves.svg)", "(eval.json)", "(answers.jsonl)"] {
            assert!(!page.contains(broken), "{broken} is left in {page}");
        }
    }
}
